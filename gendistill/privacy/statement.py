"""What a private run promises, in words for a dataset card."""

from __future__ import annotations

from gendistill.config import PrivacyConfig


def statement(privacy: PrivacyConfig, multiplier: float) -> str:
    """A paragraph that says what is protected against what, and what is not.

    :param multiplier: of the noise that was added.
    """
    if privacy.epsilon == "inf":
        return "No privacy guarantee: epsilon is inf. Sums over the real rows reached prompts and selection unnoised."
    if privacy.seed is not None:
        return (
            "No privacy guarantee: the noise was drawn from the seed in the configuration (privacy.seed), and whoever "
            "knows that can take it off again."
        )
    epsilon, delta = f"{privacy.epsilon:g}", f"{privacy.delta:g}"
    return (
        f"The texts, their labels and scores are differentially private with epsilon {epsilon} and delta {delta}: with "
        "one row more or less in the real training data the probability of any result changes by a factor of "
        f"e^{epsilon} at most, but for a probability of {delta}. The real rows reached prompts, filters and selection "
        "by one release alone, sums over their frozen embeddings, classes and lengths with Gaussian noise of "
        f"{multiplier:.3f} times their sensitivity (calibrated by the PLD accountant of dp-accounting); no real text "
        "was shown to the generator or compared with a candidate. Taken as public, and not protected: the names of the "
        "classes, the descriptions, and the weights of generator and student. Not covered: the number of real rows and "
        "the table of results, which are measured on real data; the other files of the run directory; and further runs "
        "on the same rows, which add to epsilon. Somebody with k rows in the data is protected by k times epsilon, and "
        "a larger delta."
    )
