"""ESM-2 from its configuration: the same weights and batches everywhere, and a model that learns."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pytest_bionemo.facts import esm2 as facts
from pytest_bionemo.workloads import esm2


@pytest.fixture
def broken_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package transformers before the real one, for the test to write; nothing of the real one is imported."""
    loaded = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "transformers"}
    for name in loaded:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "transformers"
    package.mkdir()
    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers"]:
        del sys.modules[name]


def weights(name: str, seed: int) -> dict[str, torch.Tensor]:
    return dict(esm2.build(name, seed=seed).named_parameters())


def test_a_model_has_the_parameters_that_it_should_have() -> None:
    assert sum(parameter.numel() for parameter in weights("8M", 0).values()) == esm2.parameters("8M") == 7_512_474


def test_the_same_seed_gives_the_same_bits_and_another_gives_others() -> None:
    first, again, other = weights("tiny", 1), weights("tiny", 1), weights("tiny", 2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(*(some["esm.embeddings.word_embeddings.weight"] for some in (first, other)))


def test_the_state_of_the_generator_is_left_as_it_was() -> None:
    state = torch.get_rng_state()
    esm2.build("tiny", seed=3)
    esm2.batch(2, 16, seed=3)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_attention_can_be_chosen(attention: str) -> None:
    model = esm2.build("tiny", attention=attention)
    assert model.config._attn_implementation == attention  # type: ignore[union-attr]


def test_a_model_is_in_training_mode_and_drops_nothing_out() -> None:
    """So that every step is a function of weights and batch alone."""
    model, batch = esm2.build("tiny"), esm2.batch(2, 16, seed=0)
    assert model.training
    assert model(**batch).loss == model(**batch).loss


def test_a_model_that_has_learnt_nothing_guesses_at_random() -> None:
    guess, margin = facts.alphabet().random_guess_loss, facts.training().untrained_margin
    losses = [float(esm2.build("tiny", seed=seed)(**esm2.batch(2, 64, seed)).loss.detach()) for seed in range(5)]
    assert all(abs(loss - guess) < margin for loss in losses), losses
    assert len(set(losses)) == 5


def test_a_fixed_batch_is_learnt_by_the_margin_of_the_facts() -> None:
    training = facts.training()
    model, batch = esm2.build("tiny", seed=0), esm2.batch(8, 64, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.learning_rate, betas=training.betas)
    losses = []
    for _ in range(training.steps):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - training.least_fall


def test_a_batch_is_random_residues_between_a_beginning_and_an_end() -> None:
    batch = esm2.batch(64, 34, seed=5)
    assert {name: tensor.shape for name, tensor in batch.items()} == dict.fromkeys(batch, (64, 34))
    assert list(batch) == ["input_ids", "attention_mask", "labels"]
    ids, labels = batch["input_ids"], batch["labels"]
    assert set(ids[:, 0].tolist()) == {0}
    assert set(ids[:, -1].tolist()) == {2}
    whole = torch.where(labels == -100, ids, labels)[:, 1:-1]
    assert set(whole.flatten().tolist()) == set(range(4, 24))
    assert bool((batch["attention_mask"] == 1).all())


@pytest.mark.parametrize(("share", "masked"), [(0.15, 5), (0.5, 16), (0.001, 1), (0.999, 32)])
def test_each_sequence_has_its_share_of_residues_masked(share: float, masked: int) -> None:
    batch = esm2.batch(16, 34, seed=6, mask_share=share)
    is_masked = batch["input_ids"] == 32
    assert is_masked.sum(dim=1).tolist() == [masked] * 16
    assert torch.equal(is_masked, batch["labels"] != -100)
    assert not bool(is_masked[:, [0, -1]].any())


def test_a_batch_is_a_function_of_its_seed() -> None:
    assert torch.equal(esm2.batch(2, 16, 1)["input_ids"], esm2.batch(2, 16, 1)["input_ids"])
    assert not torch.equal(esm2.batch(2, 16, 1)["input_ids"], esm2.batch(2, 16, 2)["input_ids"])


@pytest.mark.parametrize(("sequences", "length"), [(0, 16), (1, 2), (-1, 16)])
def test_a_batch_without_a_residue_is_refused(sequences: int, length: int) -> None:
    with pytest.raises(ValueError, match="at least 1 of length 3 is needed"):
        esm2.batch(sequences, length, seed=0)


def test_the_last_sequence_can_be_half_as_long() -> None:
    whole = esm2.batch(3, 16, seed=1)
    padded = esm2.pad_last(whole)
    tokens = facts.alphabet()
    assert padded["input_ids"][2, 7:].tolist() == [tokens.eos] + 8 * [tokens.pad]
    assert padded["attention_mask"][2].tolist() == 8 * [1] + 8 * [0]
    assert set(padded["labels"][2, 7:].tolist()) == {-100}
    assert all(torch.equal(padded[name][:2], whole[name][:2]) for name in whole)
    assert torch.equal(padded["input_ids"][2, :7], whole["input_ids"][2, :7])
    assert whole["attention_mask"].all()


def test_what_is_padding_does_not_change_the_loss() -> None:
    model, padded = esm2.build("tiny"), esm2.pad_last(esm2.batch(2, 16, seed=2))
    other = {**padded, "input_ids": padded["input_ids"].clone()}
    other["input_ids"][1, 9:12] = facts.alphabet().first_residue
    assert float(model(**other).loss.detach()) == pytest.approx(float(model(**padded).loss.detach()), rel=1e-6)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_that_leaves_nothing_to_learn_or_to_see_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="more than 0 and less than 1"):
        esm2.batch(2, 16, seed=0, mask_share=share)


@pytest.mark.parametrize("name", ["tiny", "8M"])
def test_the_flops_are_close_to_those_that_torch_counts(name: str) -> None:
    """torch counts the products of a real step; the formula adds the biases and norms and leaves the output out."""
    from torch.utils.flop_counter import FlopCounterMode

    # Eager attention is made of products that the counter knows on the CPU.
    model, batch = esm2.build(name, attention="eager"), esm2.batch(1, 64, seed=0)
    with FlopCounterMode(display=False) as counter:
        model(**batch).loss.backward()
    counted = counter.get_total_flops() / batch["input_ids"].numel()
    assert esm2.flops_per_token(name, 64) == pytest.approx(counted, rel=0.01)


def test_the_flops_follow_the_formula_as_it_is_written_down() -> None:
    parameters = 7_512_474 - 33 * 320 - (6 * 20 + 1)
    assert esm2.flops_per_token("8M", 1024) == 6 * parameters + 12 * 6 * 320 * 1024


def test_a_whole_transformers_builds_the_model_that_it_should() -> None:
    found = esm2.try_build("tiny")
    assert found.pop("attention") in ("sdpa", "eager")
    assert found == {"error": None, "trained_parameters": facts.find("tiny").trained_parameters}


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("raise ImportError('cannot import name X from huggingface_hub')", "ImportError: cannot import name X"),
        ("raise RuntimeError('numpy was built for another ABI')", "RuntimeError: numpy was built for another ABI"),
        (
            "try: import no_such_package\nexcept ImportError as error: raise RuntimeError('lazy') from error",
            "ModuleNotFoundError: No module named 'no_such_package'",
        ),
        ("", "ImportError: cannot import name 'EsmConfig'"),
        # What a release says that finds PyTorch too old for it.
        (
            "class EsmConfig:\n    def __init__(self, **settings): pass\n"
            "class EsmForMaskedLM:\n    def __init__(self, config):\n"
            "        raise ImportError('\\nEsmForMaskedLM requires the PyTorch library\\nbut it was not found')",
            "ImportError: EsmForMaskedLM requires the PyTorch library",
        ),
    ],
)
def test_a_broken_transformers_is_told_by_its_first_cause(broken_transformers: Path, code: str, error: str) -> None:
    (broken_transformers / "__init__.py").write_text(code)
    found = esm2.try_build("tiny")
    assert found["error"].startswith(error)
    assert "\n" not in found["error"]
    assert found["trained_parameters"] is None


def test_a_machine_out_of_memory_is_no_broken_transformers(broken_transformers: Path) -> None:
    (broken_transformers / "__init__.py").write_text("raise MemoryError('no room')")
    with pytest.raises(MemoryError, match="no room"):
        esm2.try_build("tiny")


def test_an_unknown_size_is_no_broken_transformers() -> None:
    with pytest.raises(ValueError, match="not a size of ESM-2"):
        esm2.try_build("7B")


def test_importing_the_module_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; import pytest_bionemo.workloads.esm2, pytest_bionemo.workloads.forward; "
        "print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
