"""Projected gradients of a tiny real BERT's body against autograd's."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tiny import tiny_rows
from torch import Tensor, nn

from gendistill.config import Config, StudentConfig
from gendistill.errors import ConfigError, ModelError
from gendistill.examples import Candidate, Example
from gendistill.pool import Pool
from gendistill.progress import Silent
from gendistill.store import Store
from gendistill.students.encoder import EncoderStudent
from gendistill.students.gradients import LORA_RANK, BodyGradients, LayerMap, linear_layers, random_maps
from gendistill.teacher import Teacher

DIMS = 256
SIGNS = "-+--+-+-+++-+-+--+---++-+++--+++"


def examples(n_per_class: int, seed: int = 0) -> list[Example]:
    rows = tiny_rows(n_per_class, 3, seed)
    names = sorted({row["label"] for row in rows})
    return [Example((row["text"],), names.index(row["label"])) for row in rows]


ROWS = examples(4, seed=9)


@pytest.fixture(scope="module")
def student(tiny_encoder_dir: Path) -> EncoderStudent:
    config = StudentConfig(
        model=str(tiny_encoder_dir), steps=8, batch_size=8, max_tokens=32, learning_rate=1e-3, gradient_dims=DIMS
    )
    student = EncoderStudent(config, 3)
    student.fit(examples(10), seed=0, checkpoints=2)
    return student


class Reference:
    """The same student in float64, differentiated row by row."""

    def __init__(self, student: EncoderStudent) -> None:
        student.features(ROWS)  # loads the last checkpoint
        self.tokenizer = student.tokenizer
        self.encoder, self.head = copy.deepcopy(student.encoder).double(), copy.deepcopy(student.head).double()

    def gradients(self, row: Example, weights: list[nn.Parameter]) -> tuple[Tensor | None, ...]:
        batch = self.tokenizer(row.text, return_tensors="pt")
        states = self.encoder(**batch).last_hidden_state[0]
        logits = self.head(10 * nn.functional.normalize(states.mean(0), dim=0))
        loss = nn.functional.cross_entropy(logits[None], torch.tensor([row.label]))
        return torch.autograd.grad(loss, weights, allow_unused=True)


@pytest.fixture(scope="module")
def exact(student: EncoderStudent) -> list[dict[str, Tensor]]:
    """Autograd's gradient of each row by each linear weight, at the trained student, in float64."""
    reference = Reference(student)
    layers = linear_layers(reference.encoder)
    found = []
    for row in ROWS:
        gradients = reference.gradients(row, [layer.weight for layer in layers.values()])
        # BERT's pooler is not used
        found.append({name: g for name, g in zip(layers, gradients, strict=True) if g is not None})
    return found


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def captured(student: EncoderStudent, gradients: BodyGradients) -> Tensor:
    return student._hidden_and_gradient(ROWS, gradients, None)[1]


def test_unprojected_factors_are_the_gradient_of_autograd(
    student: EncoderStudent, exact: list[dict[str, Tensor]]
) -> None:
    for name in exact[0]:
        layer = linear_layers(student.encoder)[name]
        identity = {name: LayerMap(torch.eye(layer.out_features), torch.eye(layer.in_features))}
        found = captured(student, BodyGradients(student.encoder, identity, layer.weight.numel()))
        for row, gradients in zip(found, exact, strict=True):
            assert relative_error(row.view_as(layer.weight), gradients[name]) < 1e-5, name


@pytest.mark.parametrize("kind", ["linear", "lora"])
def test_features_are_the_projection_of_the_gradient_matrices(
    student: EncoderStudent, exact: list[dict[str, Tensor]], kind: str
) -> None:
    gradients = BodyGradients(student.encoder, random_maps(student.encoder, DIMS, kind=kind, seed=3), DIMS)
    for row, matrices in zip(captured(student, gradients), exact, strict=True):
        assert relative_error(row, gradients.project(matrices)) < 1e-5


def test_projecting_a_displacement_is_one_matrix_product_with_the_flattened_weights(student: EncoderStudent) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = random_maps(student.encoder, 50)  # 7 x 8 numbers a layer, of which 50 are kept
    change = {name: torch.randn(layer.weight.shape, generator=generator) for name, layer in _some_layers(student)}
    flattened = torch.cat([matrix.flatten() for matrix in change.values()])
    whole = torch.cat([torch.kron(maps[name].outputs, maps[name].inputs) for name in change]).T[:50]
    found = BodyGradients(student.encoder, maps, 50).project(change)
    assert relative_error(found, whole @ flattened) < 1e-5


def _some_layers(student: EncoderStudent) -> list[tuple[str, nn.Linear]]:
    return list(linear_layers(student.encoder).items())[3:6]


@pytest.mark.parametrize("dims", [64, 1024])
def test_inner_products_are_kept_with_the_error_of_the_dimension(
    student: EncoderStudent, exact: list[dict[str, Tensor]], dims: int
) -> None:
    """The mean over seeds is the exact product, and the spread shrinks as 1/sqrt(dims).

    The variance of one coordinate's product is at most 9 |G|^2 |G'|^2 for one layer of rank one (a product of two sides
    with 3 each) and 2 for many layers; coordinates of a layer that share a side are correlated, hence a bound of 4.
    """
    flat = torch.stack([torch.cat([matrix.flatten() for matrix in row.values()]) for row in exact])
    wanted = flat @ flat.T
    scale = torch.outer(flat.norm(dim=1), flat.norm(dim=1))
    errors = []
    for seed in range(40):
        gradients = BodyGradients(student.encoder, random_maps(student.encoder, dims, seed=seed), dims)
        image = torch.stack([gradients.project(row) for row in exact]).double()
        errors.append((image @ image.T - wanted) / scale)
    error = torch.stack(errors)
    spread = float(error.square().mean().sqrt())
    assert 0.5 / dims**0.5 < spread < 4 / dims**0.5
    assert float(error.mean(0).abs().max()) < 4 * spread / 40**0.5 * 2  # no bias: within the error of 40 seeds


def test_lora_keeps_the_inner_products_of_its_own_gradients(
    student: EncoderStudent, exact: list[dict[str, Tensor]]
) -> None:
    dims, errors = 512, []
    for seed in range(20):
        maps = random_maps(student.encoder, dims, kind="lora", seed=seed)
        assert all(sides.inputs.shape[1] == LORA_RANK for sides in maps.values())
        gradients = BodyGradients(student.encoder, maps, dims)
        by_b = torch.stack(
            [torch.cat([(g.float() @ maps[name].inputs).flatten() for name, g in row.items()]) for row in exact]
        )
        image = torch.stack([gradients.project(row) for row in exact])
        scale = torch.outer(by_b.norm(dim=1), by_b.norm(dim=1))
        errors.append((image @ image.T - by_b @ by_b.T) / scale)
    assert float(torch.stack(errors).square().mean().sqrt()) < 4 / dims**0.5
    with pytest.raises(ConfigError, match="multiple of 8"):
        random_maps(student.encoder, 100, kind="lora")


def test_the_map_is_a_function_of_the_seed(student: EncoderStudent) -> None:
    name = "encoder.layer.0.attention.self.query"
    first, again, other = (random_maps(student.encoder, DIMS, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first[name].inputs, again[name].inputs)
    assert not torch.equal(first[name].inputs, other[name].inputs)
    # The same on every machine: these are bits of PCG64, which no version of numpy or torch may change.
    assert "".join("+" if sign > 0 else "-" for sign in first[name].outputs[:2].flatten()) == SIGNS
    assert all(abs(float(sides.outputs.mean() / sides.outputs.std())) < 0.3 for sides in first.values())


def test_features_do_not_depend_on_batch_order_or_padding(student: EncoderStudent) -> None:
    together = student.features(ROWS)
    assert together.gradient is not None and together.gradient.shape == (len(ROWS), DIMS)
    backwards = student.features(ROWS[::-1])
    assert backwards.gradient is not None
    assert torch.equal(backwards.gradient.flip(0), together.gradient)
    long = Example((" ".join(row.text for row in ROWS[:2]),), 0)  # the others are padded to its length
    padded = student.features([*ROWS, long]).gradient
    assert padded is not None
    for i, row in enumerate(ROWS):
        alone = student.features([row]).gradient
        assert alone is not None
        assert relative_error(alone[0], together.gradient[i]) < 1e-5
        assert relative_error(padded[i], together.gradient[i]) < 1e-5


def test_hidden_states_are_those_of_a_student_without_gradients(student: EncoderStudent) -> None:
    with_gradients = student.features(ROWS)
    assert relative_error(student._hidden(ROWS), with_gradients.hidden) < 1e-6
    assert all(weight.requires_grad for weight in student.encoder.parameters())
    assert all(weight.grad is None or not weight.grad.isnan().any() for weight in student.head.parameters())


def test_head_gradients_in_closed_form_are_those_of_autograd(student: EncoderStudent) -> None:
    features = student.features(ROWS)
    reference = Reference(student)
    for i, row in enumerate(ROWS):
        weight, bias = reference.gradients(row, [reference.head.weight, reference.head.bias])
        assert weight is not None and bias is not None
        residual = features.probabilities[i].clone()
        residual[row.label] = 0
        residual[row.label] = -residual.sum()  # p - 1 without the cancellation where p is near 1
        closed = torch.outer(residual, torch.cat([features.hidden[i], torch.ones(1)]))
        assert relative_error(closed, torch.cat([weight, bias[:, None]], dim=1)) < 1e-5


def test_a_body_without_linear_layers_is_refused() -> None:
    body = nn.Embedding(10, 4)
    with pytest.raises(ModelError, match="gradient_dims"):
        BodyGradients(body, random_maps(body, 16), 16)


def test_the_teacher_keeps_gradients_and_the_pool_carries_them(student: EncoderStudent, tmp_path: Path) -> None:
    settings = student.config.model_copy(update={"checkpoints": 2})
    config = Config(out=tmp_path / "run", student=settings)
    with Store(config.out, config) as store:
        teacher = Teacher(settings, student, examples(10), store, Silent(), seed=0)
        _, computed = teacher.features("candidates", ROWS)
        _, stored = teacher.features("candidates", ROWS)
    assert len(computed) == len(stored) == 2
    pool = Pool()
    candidates = [Candidate(row, "request", 0, 1, "generator", "template") for row in ROWS]
    for rows in ([1, 3], [2]):
        pool.extend(rows, candidates, [{}] * len(ROWS), torch.zeros(len(ROWS), 1), stored)
    for t, features in enumerate(computed):
        kept, carried = stored[t].gradient, pool.features[t].gradient
        assert features.gradient is not None and kept is not None and carried is not None
        assert torch.equal(kept, features.gradient)
        assert torch.equal(carried, features.gradient[[1, 3, 2]])
