"""What the stages of the model over DINOv2 share: they are evaluated by the run time."""

import shutil
from abc import abstractmethod
from pathlib import Path
from tempfile import TemporaryDirectory

from ovs_ros.encoders import embedded
from ovs_ros.evaluation.labelled_folder import load_labelled_set
from ovs_ros.evaluation.metrics import ConfusionMatrix
from ovs_ros.model import Model
from ovs_ros.segmenter import Segmenter
from ovs_ros.steps.network import NETWORK_FILE, Network
from ovs_ros.training.distributed import Ranks
from ovs_ros.training.loop import Recipe
from ovs_ros.training.options import StageOptions
from ovs_ros.vocabulary.vocabulary import Vocabulary


class StageRecipe(Recipe):
    """A stage of the model over DINOv2.

    Args:
        options: how.
        ranks: this process among its fellows.
        data: holds the labelled sets.
        models: the folder of the model's files.
    """

    options: StageOptions
    refines = False
    """Whether the network takes part in the evaluation."""

    def __init__(self, options: StageOptions, ranks: Ranks, data: Path, models: Path) -> None:
        super().__init__(options, ranks)
        self.data, self.models = data, models

    @abstractmethod
    def write(self, models: Path) -> None:
        """Write what is trained into a folder with the model's other files, as the run time takes it."""

    def evaluate(self) -> dict[str, dict[str, float]]:
        """`ovs evaluate` on the validation splits, every process on its share of the images."""
        results = {}
        with TemporaryDirectory() as folder:
            models = Path(shutil.copytree(self.models, Path(folder) / "models"))
            self.write(models)
            network = Network(models / NETWORK_FILE) if self.refines else None
            segmenter = Segmenter(Model(*embedded.load("stream", models=models), network))
            for name in filter(None, self.options.evaluate.split(",")):
                labelled = load_labelled_set(self.data / name / "val")
                words, matrix = (
                    segmenter.embed(Vocabulary.from_names(labelled.names)),
                    ConfusionMatrix(len(labelled.names)),
                )
                for index in range(self.ranks.rank, len(labelled), self.ranks.world):
                    image, truth = labelled.read(index)
                    matrix.add(truth, segmenter.segment(image, words).labels)
                results[name] = self.figures(matrix)
        return results
