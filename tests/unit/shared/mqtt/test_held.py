from shared.mqtt.held import Held


def test_acknowledgements_go_out_in_the_order_in_which_the_messages_came():
    held = Held(100, 1_000)
    for number in (7, 8, 9, 10):
        held.came(number, 1)
    assert held.done(9) == []
    assert held.done(8) == []
    assert len(held) == 4
    assert held.done(7) == [7, 8, 9]
    assert held.done(10) == [10]
    assert len(held) == 0


def test_packet_id_may_come_again_when_it_was_acknowledged():
    held = Held(100, 1_000)
    for _ in range(3):
        held.came(1, 1)
        held.came(2, 1)
        assert held.done(2) == []
        assert held.done(1) == [1, 2]


def test_room_ends_with_the_number_or_the_bytes_and_comes_back_with_what_goes_out():
    held = Held(3, 100)
    held.came(1, 30)
    held.came(2, 30)
    assert not held.full
    held.came(3, 30)
    assert held.full  # three
    held.done(2)
    assert held.full  # done, and still held: the first one is not
    held.done(1)
    assert not held.full
    held.came(4, 70)
    assert held.full  # a hundred bytes
    held.done(3)
    assert not held.full


def test_one_message_is_taken_however_large():
    held = Held(3, 100)
    assert not held.full
    held.came(1, 1_000)
    assert held.full
    assert held.done(1) == [1]
    assert not held.full
