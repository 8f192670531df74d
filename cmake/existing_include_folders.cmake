# ROS 2's wheels name include folders of the machine that built them, and CMake refuses folders that do not
# exist. Where ROS comes from a distribution, every folder exists and this changes nothing.
get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
foreach(target IN LISTS targets)
  get_target_property(folders ${target} INTERFACE_INCLUDE_DIRECTORIES)
  if(folders)
    set(existing "")
    foreach(folder IN LISTS folders)
      # A generator expression is not a path yet.
      if(folder MATCHES "^[$]<" OR EXISTS "${folder}")
        list(APPEND existing "${folder}")
      endif()
    endforeach()
    set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${existing}")
  endif()
endforeach()
