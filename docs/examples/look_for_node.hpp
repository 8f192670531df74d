// A node for BehaviorTree.CPP 4 with behaviortree_ros2 that looks for things with the action ~/look_for: SUCCESS at
// the first sighting, FAILURE if there is none in time. Register it, and use it in a tree:
//
//   BT::RosNodeParams params;
//   params.nh = node;
//   params.default_port_value = "/ovs/look_for";
//   factory.registerNodeType<LookFor>("LookFor", params);
//
//   <root BTCPP_format="4">
//     <BehaviorTree ID="Find">
//       <Sequence>
//         <LookFor words="fire extinguisher;hydrant" seconds="20" sighting="{sighting}"/>
//         <YourOwnNode target="{sighting}"/>
//       </Sequence>
//     </BehaviorTree>
//   </root>
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "behaviortree_ros2/bt_action_node.hpp"
#include "ovs_ros/action/look_for.hpp"

class LookFor : public BT::RosActionNode<ovs_ros::action::LookFor>
{
public:
  using BT::RosActionNode<ovs_ros::action::LookFor>::RosActionNode;

  static BT::PortsList providedPorts()
  {
    return providedBasicPorts({
      BT::InputPort<std::vector<std::string>>("words"),
      BT::InputPort<int>("seconds"),
      BT::OutputPort<ovs_ros::msg::Sighting>("sighting")});
  }

  bool setGoal(Goal & goal) override
  {
    return getInput("words", goal.words) && getInput("seconds", goal.duration.sec);
  }

  BT::NodeStatus onFeedback(const std::shared_ptr<const Feedback> feedback) override
  {
    setOutput("sighting", feedback->sighting);
    return BT::NodeStatus::SUCCESS;  // The base class cancels the search.
  }

  BT::NodeStatus onResultReceived(const WrappedResult &) override
  {
    return BT::NodeStatus::FAILURE;
  }
};
