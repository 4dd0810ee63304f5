import sqlite3
import threading
import time
from contextlib import closing
from random import Random

import numpy as np
import pytest

from edge_agent.deciding.policy import Circumstances, OffloadMode
from edge_agent.deciding.settings import BudgetSettings
from edge_agent.execution.engine import Engine
from edge_agent.outcomes import AnsweredBy
from edge_agent.request import Request
from edge_agent.spool.settings import SpoolSettings
from edge_agent.uplink.correlation import Correlation
from shared.errors import SampleError
from shared.ids import new_id
from shared.messages import Action, Reason, Receipt, TaskCounts
from tests.sim import bundles
from tests.sim.bundles import hard_sample, sample
from tests.sim.cloud import verdict


def test_infer_keeps_a_sure_sample(build):
    parts = build(audit_fraction=0.0)
    outcome = parts.pipeline.infer(Request(sample(3), reference="r"))
    assert (outcome.label, outcome.prediction, outcome.edge_prediction) == ("3", 3, 3)
    assert (outcome.action, outcome.reason, outcome.answered_by) == (Action.KEEP, Reason.CONFIDENT, AnsweredBy.EDGE)
    assert (outcome.reference, outcome.bundle_version, outcome.task) == ("r", "v1", "digits")
    assert outcome.confidence == pytest.approx(1 / (1 + 9 * np.exp(-8.0)), abs=1e-5)
    assert 0 < outcome.infer_us <= outcome.total_us
    assert parts.spool.state().items == 0
    assert parts.wakes == []
    assert parts.sink.outcomes == [outcome]
    assert parts.ledger.counts() == {"digits": TaskCounts(inferences=1, kept=1)}


def test_infer_offloads_a_hard_sample_with_its_raw_tensor(build):
    parts = build()
    tensor = hard_sample(3)
    outcome = parts.pipeline.infer(Request(tensor))
    assert (outcome.action, outcome.reason, outcome.prediction) == (Action.OFFLOAD, Reason.HARD, 3)
    (kept,) = parts.spool.due(10)
    assert (kept.header.sample_id, kept.header.seq) == (outcome.sample_id, outcome.seq)
    assert (kept.header.prediction, kept.header.inclusion_probability, kept.header.training_use) == (3, 1.0, True)
    assert kept.header.hardness == outcome.hardness
    np.testing.assert_array_equal(kept.tensor, tensor)
    assert len(parts.wakes) == 1
    assert parts.ledger.counts() == {"digits": TaskCounts(inferences=1, offloaded=1)}


def test_infer_output_with_nan_is_offloaded_as_invalid(build):
    parts = build(bundle={"nan": True})
    outcome = parts.pipeline.infer(Request(sample(3, nan=True)))
    assert (outcome.action, outcome.reason, outcome.hardness) == (Action.OFFLOAD, Reason.INVALID_OUTPUT, 1.0)
    assert outcome.confidence == 0.0


def test_infer_audits_a_share_and_says_with_what_chance(build):
    parts = build(audit_fraction=0.3, rng=Random(5))
    outcomes = [parts.pipeline.infer(Request(sample(3))) for _ in range(400)]
    audits = [each for each in outcomes if each.reason is Reason.AUDIT]
    assert 80 < len(audits) < 160
    assert all(each.action is Action.OFFLOAD for each in audits)
    headers = [each.header for each in parts.spool.due(1000)]
    assert {each.inclusion_probability for each in headers} == {0.3}
    assert {each.sample_id for each in headers} == {each.sample_id for each in audits}
    assert parts.ledger.counts()["digits"].audits == len(audits)


def test_infer_private_task_sends_nothing(build):
    parts = build(offload=OffloadMode.NEVER)
    outcome = parts.pipeline.infer(Request(hard_sample(3)))
    assert (outcome.action, outcome.reason) == (Action.KEEP, Reason.PRIVATE)
    assert parts.spool.state().items == 0


def test_request_overrides_the_tasks_audits_and_training_use(build):
    parts = build(audit_fraction=1.0, training_use=True)
    assert parts.pipeline.infer(Request(sample(3), audit_fraction=0.0)).action is Action.KEEP
    parts.pipeline.infer(Request(sample(3), training_use=False))
    parts.pipeline.infer(Request(sample(3)))
    assert [each.header.training_use for each in parts.spool.due(10)] == [False, True]


def test_verdict_that_overtakes_the_outcome_is_told_after_it(build):
    told_early = []

    def answer_at_once():
        (item,) = parts.spool.due(10)
        parts.pipeline.take_verdict(verdict(item.header, 5))
        told_early.extend(parts.sink.corrections)

    parts = build(wake=answer_at_once)
    outcome = parts.pipeline.infer(Request(hard_sample(3), reference=7))
    assert told_early == []
    assert parts.sink.outcomes == [outcome]
    assert [(each.sample_id, each.prediction, each.reference) for each in parts.sink.corrections] == [
        (outcome.sample_id, 5, 7)
    ]


def test_infer_with_a_full_spool_answers_and_drops(build):
    parts = build(spool=SpoolSettings(max_bytes=4096))
    big = build("big", bundle={"shape": (100, 100)}, spool=SpoolSettings(max_bytes=4096))
    outcome = big.pipeline.infer(Request(np.zeros((100, 100), np.uint8), deadline_s=30.0))
    assert (outcome.action, outcome.reason, outcome.answered_by) == (Action.DROP, Reason.SPOOL_FULL, AnsweredBy.EDGE)
    assert big.ledger.counts() == {"digits": TaskCounts(inferences=1, dropped=1)}
    assert big.correlation.deadline_ms(outcome.sample_id) is None
    assert parts.pipeline.infer(Request(hard_sample(1))).action is Action.OFFLOAD


@pytest.mark.parametrize("tensor", [np.zeros((8, 8), np.float32), np.zeros((8, 9), np.uint8), np.zeros(64, np.uint8)])
def test_infer_sample_of_another_shape_or_dtype_is_refused_and_counted(build, tensor):
    parts = build()
    with pytest.raises(SampleError, match=r"the task takes \[8, 8\] and uint8"):
        parts.pipeline.infer(Request(tensor))
    assert parts.ledger.counts() == {"digits": TaskCounts(inferences=1, errors=1)}
    assert parts.sink.outcomes == []


def test_seq_is_unique_and_rises_over_restarts(build):
    seqs = []
    for _ in range(3):
        parts = build()
        seqs += [parts.pipeline.infer(Request(sample(1))).seq for _ in range(5)]
    assert seqs == sorted(set(seqs))
    assert len(seqs) == 15


def test_seq_has_no_gaps_and_no_twins_between_threads(build):
    parts = build(audit_fraction=0.0)
    threads = [
        threading.Thread(target=lambda: [parts.pipeline.infer(Request(sample(1))) for _ in range(200)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seqs = sorted(each.seq for each in parts.sink.outcomes)
    assert seqs == list(range(seqs[0], seqs[0] + 800))


def test_swap_takes_effect_between_two_samples(build, tmp_path):
    parts = build(audit_fraction=0.0)
    newer = Engine(bundles.unpacked(tmp_path / "newer", version="v2", shift=1))
    before = parts.pipeline.infer(Request(sample(3)))
    parts.pipeline.swap(newer)
    after = parts.pipeline.infer(Request(sample(3)))
    assert [(each.label, each.bundle_version) for each in (before, after)] == [("3", "v1"), ("2", "v2")]
    assert parts.pipeline.engine is newer


def test_swap_under_load_never_mixes_two_models(build, tmp_path):
    parts = build(audit_fraction=0.0)
    engines = [parts.engine, Engine(bundles.unpacked(tmp_path / "newer", version="v2", shift=1))]
    stop = threading.Event()

    def swap():
        turn = 0
        while not stop.is_set():
            turn += 1
            parts.pipeline.swap(engines[turn % 2])

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        outcomes = [parts.pipeline.infer(Request(sample(3))) for _ in range(2000)]
    finally:
        stop.set()
        swapper.join()
    assert {(each.bundle_version, each.label) for each in outcomes} == {("v1", "3"), ("v2", "2")}


def answering(label):
    """A `send_now` that answers every sample before `infer` comes to wait, as a fast cloud may."""
    parts = []

    def send_now(header, tensor):
        parts[0].pipeline.take_verdict(verdict(header, label))
        return True

    return parts, send_now


def test_deadline_is_answered_by_the_cloud(build):
    holder, send_now = answering(7)
    parts = build(send_now=send_now)
    holder.append(parts)
    outcome = parts.pipeline.infer(Request(hard_sample(3), deadline_s=10.0))
    assert (outcome.answered_by, outcome.label, outcome.prediction) == (AnsweredBy.CLOUD, "7", 7)
    assert (outcome.edge_prediction, outcome.confidence) == (3, 1.0)
    assert parts.sink.corrections == []
    assert parts.spool.state().items == 0
    counts = parts.ledger.counts()["digits"]
    assert (counts.verdicts, counts.agreed) == (1, 0)


def test_deadline_of_the_settings_counts_where_the_caller_says_nothing(build):
    holder, send_now = answering(7)
    parts = build(send_now=send_now, deadline_s=10.0)
    holder.append(parts)
    assert parts.pipeline.infer(Request(hard_sample(3))).answered_by is AnsweredBy.CLOUD
    assert parts.pipeline.infer(Request(hard_sample(3), deadline_s=0.0)).answered_by is AnsweredBy.EDGE


def test_audit_never_waits(build):
    parts = build(audit_fraction=1.0, deadline_s=60.0)
    outcome = parts.pipeline.infer(Request(sample(3)))
    assert (outcome.reason, outcome.answered_by) == (Reason.AUDIT, AnsweredBy.EDGE)
    assert outcome.total_us < 10e6


def test_verdict_after_the_deadline_is_a_correction(build):
    sent = []
    parts = build(send_now=lambda header, tensor: not sent.append(header))
    outcome = parts.pipeline.infer(Request(hard_sample(3), reference=11, deadline_s=0.001))
    assert (outcome.answered_by, outcome.label) == (AnsweredBy.EDGE_AFTER_DEADLINE, "3")
    parts.pipeline.take_verdict(verdict(sent[0], 7))
    (correction,) = parts.sink.corrections
    assert (correction.sample_id, correction.seq, correction.reference) == (outcome.sample_id, outcome.seq, 11)
    assert (correction.label, correction.prediction, correction.agreed) == ("7", 7, False)
    assert (correction.confidence, correction.teacher, correction.bundle_version) == (1.0, "teacher-1", "v1")


def test_verdict_after_a_receipt_still_is_a_correction(build):
    parts = build()
    parts.pipeline.infer(Request(hard_sample(3)))
    (item,) = parts.spool.due(1)
    receipt = Receipt(accepted=(item.header.sample_id,))
    parts.spool.acknowledge(receipt.accepted)
    parts.pipeline.take_verdict(verdict(item.header, 3))
    assert [each.agreed for each in parts.sink.corrections] == [True]
    assert parts.ledger.counts()["digits"].agreed == 1


def test_verdict_repeated_changes_nothing(build):
    parts = build()
    parts.pipeline.infer(Request(hard_sample(3)))
    (item,) = parts.spool.due(1)
    for _ in range(3):
        parts.pipeline.take_verdict(verdict(item.header, 3))
    assert len(parts.sink.corrections) == 1
    assert parts.ledger.counts()["digits"].verdicts == 1


def test_correction_is_told_once_though_the_disk_does_not_let_go_of_the_sample(build):
    parts = build()
    parts.pipeline.infer(Request(hard_sample(3)))
    (item,) = parts.spool.due(1)
    with closing(sqlite3.connect(parts.folder / "spool" / "spool.db", isolation_level=None)) as failing:
        failing.execute("CREATE TRIGGER failing BEFORE DELETE ON items BEGIN SELECT RAISE(ABORT, 'failing'); END")
        for _ in range(3):
            parts.pipeline.take_verdict(verdict(item.header, 4))
        assert parts.spool.state().items == 1
        failing.execute("DROP TRIGGER failing")
    parts.pipeline.take_verdict(verdict(item.header, 4))
    assert parts.spool.state().items == 0
    assert len(parts.sink.corrections) == 1
    assert parts.ledger.counts()["digits"].verdicts == 1


def test_verdict_after_a_restart_is_a_correction_without_the_reference(build):
    before = build()
    outcome = before.pipeline.infer(Request(hard_sample(3), reference="gone"))
    after = build()
    (item,) = after.spool.due(1)
    after.pipeline.take_verdict(verdict(item.header, 4))
    (correction,) = after.sink.corrections
    assert (correction.sample_id, correction.reference, correction.agreed) == (outcome.sample_id, None, False)
    assert after.spool.state().items == 0


def test_verdict_for_an_unknown_sample_is_ignored(build):
    parts = build()
    parts.pipeline.infer(Request(hard_sample(3)))
    (item,) = parts.spool.due(1)
    parts.pipeline.take_verdict(verdict(item.header.model_copy(update={"sample_id": new_id()})))
    assert parts.sink.corrections == []
    assert parts.spool.state().items == 1


def test_verdict_beyond_the_labels_does_not_stop_the_device(build):
    parts = build()
    parts.pipeline.infer(Request(hard_sample(3)))
    (item,) = parts.spool.due(1)
    parts.pipeline.take_verdict(verdict(item.header, 12))
    (correction,) = parts.sink.corrections
    assert (correction.label, correction.confidence) == ("12", 0.0)


def test_correlation_may_be_shared_by_two_tasks(build):
    shared = Correlation()
    one, two = build("one", correlation=shared), build("two", correlation=shared)
    one.pipeline.infer(Request(hard_sample(3)))
    two.pipeline.infer(Request(hard_sample(4)))
    (item,) = two.spool.due(1)
    two.pipeline.take_verdict(verdict(item.header))
    assert (len(one.sink.corrections), len(two.sink.corrections)) == (0, 1)


def test_sample_that_somebody_waits_for_is_sent_at_once(build):
    sent = []

    def send_now(header, tensor):
        sent.append(header.sample_id)
        parts.pipeline.take_verdict(verdict(header, 7))
        return True

    parts = build(send_now=send_now, audit_fraction=0.0)
    outcome = parts.pipeline.infer(Request(hard_sample(3), deadline_s=10.0))
    assert (outcome.answered_by, outcome.label) == (AnsweredBy.CLOUD, "7")
    assert (sent, parts.wakes) == ([outcome.sample_id], [])
    parts.pipeline.infer(Request(hard_sample(3)))  # nobody waits: the uplink's own time is good enough
    parts.pipeline.infer(Request(sample(3), deadline_s=10.0))
    assert (len(sent), len(parts.wakes)) == (1, 1)


def test_deadline_counts_from_the_beginning_whatever_it_is_spent_on(build):
    def dawdle(departing):
        time.sleep(0.5)
        return departing.tensor

    parts = build(redact=dawdle)
    started = time.perf_counter()
    outcome = parts.pipeline.infer(Request(hard_sample(3), deadline_s=0.6))
    assert outcome.answered_by is AnsweredBy.EDGE_AFTER_DEADLINE
    assert time.perf_counter() - started < 1.0


def test_redacted_sample_goes_up_as_the_hook_left_it(build):
    parts = build(redact=lambda departing: departing.tensor // 2)
    parts.pipeline.infer(Request(np.full((8, 8), 4, np.uint8)))
    (kept,) = parts.spool.due(10)
    assert (kept.tensor == 2).all()


def test_withheld_sample_stays_and_nobody_waits_for_it(build):
    parts = build(redact=lambda departing: None)
    outcome = parts.pipeline.infer(Request(hard_sample(3), deadline_s=60.0))
    assert (outcome.action, outcome.reason, outcome.answered_by) == (Action.KEEP, Reason.WITHHELD, AnsweredBy.EDGE)
    assert parts.spool.state().items == 0
    assert parts.ledger.counts()["digits"] == TaskCounts(inferences=1, kept=1, withheld=1)
    assert parts.judge.budget().offload == 0.0


def test_redaction_is_not_asked_of_what_stays_anyway(build):
    asked = []
    parts = build(redact=lambda departing: asked.append(departing.label), audit_fraction=0.0)
    parts.pipeline.infer(Request(sample(3)))
    assert asked == []


def test_deferred_sample_waits_until_the_device_has_it_easier(build):
    parts = build()
    parts.judge.under(Circumstances(defer_training=True))
    outcome = parts.pipeline.infer(Request(hard_sample(3)))
    assert (outcome.action, outcome.reason) == (Action.DEFER, Reason.HARD)
    assert parts.spool.due(10, deferred=False) == []
    assert [each.header.sample_id for each in parts.spool.due(10)] == [outcome.sample_id]
    assert parts.ledger.counts()["digits"] == TaskCounts(inferences=1, deferred=1)


def test_sample_that_nobody_waits_for_is_dropped_at_last(build):
    parts = build()
    parts.judge.under(Circumstances(drop=True))
    outcome = parts.pipeline.infer(Request(hard_sample(3)))
    assert (outcome.action, outcome.reason, outcome.label) == (Action.DROP, Reason.PRESSURE, "3")
    assert parts.spool.state().items == 0
    assert parts.ledger.counts()["digits"] == TaskCounts(inferences=1, dropped=1)


def test_budget_that_is_spent_keeps_hard_samples_and_says_so(build):
    parts = build(budget=BudgetSettings(bytes_per_day=640), audit_fraction=0.0)
    outcomes = [parts.pipeline.infer(Request(hard_sample(index % 10))) for index in range(50)]
    kept = [each for each in outcomes if each.reason is Reason.BUDGET]
    assert len(kept) > 40
    assert {each.action for each in kept} == {Action.KEEP}
    assert parts.ledger.counts()["digits"].over_budget == len(kept)


def test_lighter_model_stands_in_and_gives_way(build, tmp_path):
    parts = build(audit_fraction=0.0)
    light = Engine(bundles.unpacked(tmp_path / "light", version="light", shift=1))
    parts.pipeline.let_stand_in(light)
    under_pressure = parts.pipeline.infer(Request(sample(3)))
    assert (under_pressure.label, under_pressure.bundle_version) == ("2", "light")
    assert parts.pipeline.engine.manifest.version == "v1"
    newer = Engine(bundles.unpacked(tmp_path / "newer", version="v2"))
    parts.pipeline.swap(newer)  # an update meanwhile is for afterwards
    assert parts.pipeline.infer(Request(sample(3))).bundle_version == "light"
    parts.pipeline.let_stand_in(None)
    assert parts.pipeline.infer(Request(sample(3))).bundle_version == "v2"


def test_sample_that_could_not_be_sent_at_once_is_due_at_once(build):
    parts = build(send_now=lambda header, tensor: False)
    outcome = parts.pipeline.infer(Request(hard_sample(3), deadline_s=0.001))
    assert len(parts.wakes) == 1
    assert [each.header.sample_id for each in parts.spool.due(10)] == [outcome.sample_id]
