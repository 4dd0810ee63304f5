import logging

import pytest
import torch

from cloud_service.errors import ModelError
from cloud_service.training.memory import out_of_memory, with_room


def needing(most):
    """Work that fits with so many samples a step, and the batches that were tried."""
    tried = []

    def work(batch):
        tried.append(batch)
        if batch > most:
            raise MemoryError
        return batch

    return work, tried


def test_batch_that_fits_is_taken_as_it_is():
    work, tried = needing(64)
    assert with_room(work, batch=64, what="it") == 64
    assert tried == [64]


def test_batch_that_does_not_fit_is_halved_once_and_said(caplog):
    work, tried = needing(40)
    with caplog.at_level(logging.WARNING):
        assert with_room(work, batch=64, what="the student") == 32
    assert tried == [64, 32]
    assert [record.message for record in caplog.records] == [
        "the student: a batch of 64 does not fit into memory: starting again with 32"
    ]


def test_half_a_batch_that_does_not_fit_either_is_an_error_that_says_what_to_do():
    work, tried = needing(8)
    with pytest.raises(ModelError, match="neither 64 samples a step nor 32 fit"):
        with_room(work, batch=64, what="the student")
    assert tried == [64, 32]


def test_torch_on_a_cpu_says_in_its_own_words_that_memory_ran_out():
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(refused.value)


def test_other_errors_are_no_matter_of_memory():
    def work(batch):
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        with_room(work, batch=64, what="it")
