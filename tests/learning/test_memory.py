"""A replay memory holds what it should, in the bytes that it says, and survives a stop."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor

from clbench.data.stored import Stored
from clbench.evaluate.costs import capacity_bytes
from clbench.learning.balancing import rank_within
from clbench.learning.herding import herding
from clbench.learning.memory import Memory


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def memory_of(capacity: int) -> Memory:
    """A memory of single bytes."""
    memory = Memory(capacity)
    memory.reserve((1,))
    return memory


def samples(
    items: Tensor,
    labels: Tensor | list[int],
    *,
    tasks: Tensor | int = 0,
    rows: Tensor | None = None,
    **extras: Tensor,
) -> Stored:
    """Samples of one task and of unknown rows unless these are given."""
    labels = torch.as_tensor(labels)
    tasks = torch.zeros_like(labels) + tasks
    return Stored(items, labels, tasks, torch.full_like(labels, -1) if rows is None else rows, extras)


def offer(memory: Memory, labels: list[int], generator: torch.Generator, method: str = "reservoir") -> None:
    """Offer samples whose rows count on from those offered before."""
    rows = torch.arange(len(labels)) + memory.num_seen
    items = (rows % 256).to(torch.uint8)[:, None]
    store = memory.reservoir if method == "reservoir" else memory.balance
    store(samples(items, labels, rows=rows), generator)


def counts(memory: Memory) -> list[int]:
    return memory.labels[: len(memory)].bincount().tolist()


# Reservoir sampling


@pytest.mark.parametrize("batch", [1, 7, 20])
def test_reservoir_keeps_each_sample_with_the_same_probability(batch: int) -> None:
    """2,000 seeded runs of 20 samples through 5 places: each is kept in about a quarter of them."""
    kept = torch.zeros(20)
    for seed in range(2000 if batch == 7 else 500):
        memory, generator = memory_of(5), seeded(seed)
        for start in range(0, 20, batch):
            offer(memory, [0] * min(batch, 20 - start), generator)
        assert len(memory) == 5
        kept[memory.rows] += 1
    assert stats.chisquare(kept.numpy()).pvalue > 0.001


def test_reservoir_keeps_pairs_with_the_same_probability() -> None:
    """The 15 pairs of 6 samples are kept equally often: the places are not bound to each other."""
    kept = torch.zeros(6, 6)
    for seed in range(2000):
        memory = memory_of(2)
        offer(memory, [0] * 6, seeded(seed))
        first, second = sorted(memory.rows.tolist())
        kept[first, second] += 1
    pairs = kept[torch.triu_indices(6, 6, offset=1).unbind()]
    assert pairs.sum() == 2000
    assert stats.chisquare(pairs.numpy()).pvalue > 0.001


def test_reservoir_in_batches_is_the_algorithm_one_by_one() -> None:
    """With the same draws, later samples of a batch overwrite earlier ones as they would one by one."""
    generator, by_hand = seeded(3), {}
    memory = memory_of(4)
    for start in range(0, 60, 12):
        draws = torch.randint(2**62, (12,), generator=seeded(start)).tolist()
        for row, draw in enumerate(draws, start):
            place = row if row < 4 else draw % (row + 1)
            if place < 4:
                by_hand[place] = row
        offer(memory, [0] * 12, generator.manual_seed(start))
    assert memory.rows.tolist() == [by_hand[place] for place in range(4)]


def test_everything_is_kept_while_there_is_room() -> None:
    memory, generator = memory_of(10), seeded()
    assert memory.is_empty
    offer(memory, [1, 2, 3], generator)
    offer(memory, [4, 5, 6, 7], generator)
    assert memory.labels[: len(memory)].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert (len(memory), memory.num_seen, memory.is_empty) == (7, 7, False)


@pytest.mark.parametrize("method", ["reservoir", "balance"])
def test_memory_is_never_above_its_capacity_and_what_it_holds_belongs_together(method: str) -> None:
    memory, generator = Memory(8), seeded()
    memory.reserve((2, 2, 3), logits=((5,), torch.float32))
    for step in range(20):
        rows = torch.arange(6) + 6 * step
        items = (rows % 256).to(torch.uint8)[:, None, None, None].expand(6, 2, 2, 3)
        logits = rows[:, None].float().expand(6, 5).requires_grad_()
        store = memory.reservoir if method == "reservoir" else memory.balance
        store(samples(items, rows % 7, tasks=rows // 40, rows=rows, logits=logits), generator)
        assert len(memory) <= 8
    stored = memory.at(torch.arange(8))
    assert len(set(stored.rows.tolist())) == 8
    assert torch.equal(stored.labels, stored.rows % 7)
    assert torch.equal(stored.tasks, stored.rows // 40)
    assert torch.equal(stored.items[:, 1, 1, 2].long(), stored.rows % 256)
    assert torch.equal(stored.extras["logits"][:, 4].long(), stored.rows)
    assert not stored.extras["logits"].requires_grad


# Balance


def test_balanced_classes_differ_by_one_at_most() -> None:
    memory, generator = memory_of(100), seeded()
    for task in range(5):
        offer(memory, [3 * task, 3 * task + 1, 3 * task + 2] * 60, generator, "balance")
        num_classes = 3 * (task + 1)
        share, rest = divmod(100, num_classes)
        assert sorted(counts(memory)) == [share] * (num_classes - rest) + [share + 1] * rest


def test_a_rare_class_keeps_all_it_has_and_the_others_share_the_rest() -> None:
    memory = memory_of(10)
    offer(memory, [0] * 30 + [1] * 2 + [2] * 30, seeded(), "balance")
    assert sorted(counts(memory)) == [2, 4, 4]


def test_a_class_that_is_alone_takes_every_place() -> None:
    memory = memory_of(10)
    offer(memory, [0] * 30, seeded(), "balance")
    assert counts(memory) == [10]


def test_any_sample_of_the_largest_class_may_give_way() -> None:
    """Of 4 samples of class 0 two stay, each as often as any other."""
    kept = torch.zeros(4)
    for seed in range(500):
        memory = memory_of(4)
        offer(memory, [0] * 4 + [1] * 4, seeded(seed), "balance")
        kept[memory.rows[memory.labels == 0]] += 1
    assert kept.sum() == 1000
    assert stats.chisquare(kept.numpy()).pvalue > 0.001


# Choice


def test_keep_and_append_set_the_content() -> None:
    memory = memory_of(6)
    offer(memory, [0, 0, 0, 1, 1, 1], seeded())
    memory.keep((rank_within(memory.labels[:6]) < 2).nonzero().flatten())
    assert memory.rows[: len(memory)].tolist() == [0, 1, 3, 4]
    memory.append(samples(torch.zeros(2, 1).byte(), [2, 2], tasks=7, rows=torch.tensor([9, 8])))
    assert memory.rows.tolist() == [0, 1, 3, 4, 9, 8]
    assert memory.tasks.tolist() == [0, 0, 0, 0, 7, 7]
    with pytest.raises(ValueError, match="no room for 1 more in a memory of 6/6"):
        memory.append(samples(torch.zeros(1, 1).byte(), [2]))
    memory.keep(torch.tensor([5, 0]))
    assert memory.rows[: len(memory)].tolist() == [8, 0]


def test_draw_is_uniform_and_without_repetition() -> None:
    memory, generator = memory_of(9), seeded()
    offer(memory, [0] * 8, generator)
    times = torch.zeros(8)
    for _ in range(500):
        index = memory.draw(3, generator)
        assert len(set(index.tolist())) == 3
        times[index] += 1
    assert stats.chisquare(times.numpy()).pvalue > 0.001
    assert sorted(memory.draw(20, generator).tolist()) == list(range(8))


def test_draws_from_an_empty_memory_are_empty() -> None:
    memory = memory_of(3)
    assert len(memory.draw(2, seeded())) == 0
    assert memory.at(memory.draw(2, seeded())).items.shape == (0, 1)


# State


def test_bytes_are_those_of_the_tensors_reserved() -> None:
    memory = Memory(50)
    memory.reserve((32, 32, 3), logits=((10,), torch.float32))
    assert capacity_bytes({"memory": memory})["memory"] == sum(x.nbytes for x in memory.state_dict().values())
    two_counters = 16
    expected = 50 * (32 * 32 * 3 + 3 * 8 + 10 * 4) + two_counters
    assert capacity_bytes({"memory": memory})["memory"] == expected
    images = torch.zeros(80, 32, 32, 3, dtype=torch.uint8)
    memory.reservoir(samples(images, [0] * 80, logits=torch.zeros(80, 10)), seeded())
    assert capacity_bytes({"memory": memory})["memory"] == expected


def test_features_can_be_kept_and_a_wrong_kind_is_refused() -> None:
    memory = Memory(3)
    memory.reserve((4,), torch.float32)
    memory.reserve((4,), torch.float32)  # changes nothing
    features = torch.rand(2, 4, generator=seeded())
    memory.reservoir(samples(features, [0, 1]), seeded())
    assert torch.equal(memory.items[:2], features)
    assert memory.rows[:2].tolist() == [-1, -1]
    with pytest.raises(TypeError, match=r"holds torch\.float32, not torch\.uint8"):
        memory.reservoir(samples(features.byte(), [0, 1]), seeded())
    with pytest.raises(KeyError, match="logits"):
        memory.reservoir(samples(features, [0, 1], logits=features), seeded())


def test_room_is_made_where_the_memory_was_moved_to() -> None:
    memory = Memory(3).to("meta")
    memory.reserve((2,), logits=((4,), torch.float32))
    assert {buffer.device.type for buffer in memory.buffers()} == {"meta"}


def test_widened_extra_keeps_its_values() -> None:
    memory = Memory(2)
    memory.reserve((1,), logits=((2,), torch.float32))
    logits = torch.tensor([[1.0, 2.0]])
    memory.reservoir(samples(torch.zeros(1, 1).byte(), [0], logits=logits), seeded())
    memory.widen("logits", 4)
    memory.widen("logits", 3)  # never shorter
    assert memory.at(torch.tensor([0])).extras["logits"].tolist() == [[1, 2, 0, 0]]


@pytest.mark.parametrize("method", ["reservoir", "balance"])
def test_resumed_memory_goes_on_alike(method: str) -> None:
    memory, fresh = memory_of(6), memory_of(6)
    offer(memory, [0, 0, 1, 0, 2, 0, 0, 1, 0], seeded(1), method)
    fresh.load_state_dict({name: value.clone() for name, value in memory.state_dict().items()})
    for each in (memory, fresh):
        offer(each, [0, 3, 3, 1, 3, 2, 2], seeded(2), method)
    state, other = memory.state_dict(), fresh.state_dict()
    assert all(torch.equal(state[name], other[name]) for name in state)
    assert torch.equal(memory.draw(4, seeded(3)), fresh.draw(4, seeded(3)))


# Herding


def naive_herding(features: Tensor, count: int) -> list[int]:
    mean, picked = features.mean(dim=0), []
    for _ in range(count):
        rest = [index for index in range(len(features)) if index not in picked]
        means = torch.stack([features[[*picked, index]].mean(dim=0) for index in rest])
        picked.append(rest[int((mean - means).norm(dim=1).argmin())])
    return picked


def test_herding_picks_what_the_naive_loop_picks() -> None:
    features = torch.randn(60, 8, generator=seeded(), dtype=torch.float64) + 5
    assert herding(features, 60).tolist() == naive_herding(features, 60)
    assert herding(features.float(), 20).tolist() == naive_herding(features, 20)


def test_herding_by_hand() -> None:
    """The mean of 0, 1, 2, 9 is 3: 2 is nearest, then (2 + 1) / 2 beats (2 + 9) / 2, then (2 + 1 + 9) / 3."""
    features = torch.tensor([[0.0], [1.0], [2.0], [9.0]])
    assert herding(features, 3).tolist() == [2, 1, 3]
    assert sorted(herding(features, 10).tolist()) == [0, 1, 2, 3]
    assert herding(features, 0).tolist() == []
