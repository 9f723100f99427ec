"""A network of its own for every width, that follows the checkpoint."""

from neumeta_cli.evaluate.methods.individual import Individual


class Distilled(Individual):
    """Trained alone, with the checkpoint as the teacher (Hinton et al., 2015)."""

    name, label = "distilled", "individually distilled"
    teacher = 1.0
