from relay.core.memory import Memories, Memory


def test_looking_is_enough_to_forget():
    memory = Memory(10)
    memory.add("a", 5.0, now=0.0, wall=1000.0)
    assert memory.knows("a", 4.9, 1004.9)
    assert not memory.knows("a", 5.0, 1005.0)
    assert len(memory) == 0


def test_an_entry_is_known_until_its_end():
    memory = Memory(10)
    memory.add("a", 5.0, now=0.0, wall=1000.0)
    assert memory.knows("a", 0.0, 0.0)
    assert memory.has_room(4.9, 1004.9)
    assert memory.knows("a", 0.0, 0.0)
    assert memory.has_room(5.0, 1005.0)
    assert not memory.knows("a", 0.0, 0.0)
    assert len(memory) == 0


def test_a_wall_clock_that_jumps_forward_forgets_nothing_early():
    memory = Memory(10)
    memory.add("a", 5.0, now=0.0, wall=1000.0)
    memory.has_room(1.0, 9000.0)
    assert memory.knows("a", 0.0, 0.0)


def test_a_wall_clock_that_jumps_back_keeps_an_entry_as_long_as_its_token_passes():
    memory = Memory(10)
    memory.add("a", 5.0, now=0.0, wall=1000.0)
    memory.has_room(6.0, 900.0)
    assert memory.knows("a", 0.0, 0.0)
    memory.has_room(111.0, 1005.0)
    assert not memory.knows("a", 0.0, 0.0)


def test_the_horizon_is_the_latest_end_that_was_forgotten():
    memory = Memory(10)
    memory.add("a", 5.0, now=0.0, wall=1000.0)
    memory.add("b", 4.0, now=0.0, wall=1000.0)
    assert memory.knows("a", 3.0, 900.0)
    assert memory.horizon < 0
    memory.has_room(9.0, 1009.0)
    assert memory.horizon == 1005.0


def test_adding_again_prolongs():
    memory = Memory(10)
    memory.add("a", 5.0, now=0.0, wall=1000.0)
    memory.add("a", 5.0, now=4.0, wall=1004.0)
    memory.has_room(5.0, 1005.0)
    assert memory.knows("a", 0.0, 0.0)
    memory.has_room(9.0, 1009.0)
    assert not memory.knows("a", 0.0, 0.0)


def test_at_the_ceiling_the_entry_nearest_its_end_makes_room():
    memory = Memory(2)
    memory.add("short", 5.0, now=0.0, wall=0.0)
    memory.add("long", 50.0, now=0.0, wall=0.0)
    assert not memory.has_room(1.0, 1.0)
    memory.add("new", 5.0, now=1.0, wall=1.0)
    assert not memory.knows("short", 0.0, 0.0)
    assert memory.knows("long", 0.0, 0.0)
    assert memory.knows("new", 0.0, 0.0)


def test_a_discarded_entry_is_gone_and_its_place_free():
    memory = Memory(1)
    memory.add("a", 5.0, now=0.0, wall=0.0)
    memory.discard("a")
    assert memory.has_room(0.0, 0.0)
    memory.add("b", 9.0, now=0.0, wall=0.0)
    memory.add("c", 9.0, now=0.0, wall=0.0)
    assert len(memory) == 1
    memory.has_room(6.0, 6.0)
    assert memory.knows("c", 0.0, 0.0)


def test_an_entry_discarded_before_its_end_dies_when_it_surfaces():
    memory = Memory(3)
    memory.add("a", 5.0, now=0.0, wall=0.0)
    memory.discard("a")
    assert memory.has_room(6.0, 6.0)
    assert len(memory) == 0


def test_each_owner_has_a_memory_of_its_own_with_the_same_ceiling():
    memories = Memories(1)
    memories.of("a").add("x", 5.0, 0.0, 0.0)
    assert memories.of("a").knows("x", 0.0, 0.0)
    assert not memories.of("b").knows("x", 0.0, 0.0)
    assert (memories.of("a").has_room(0.0, 0.0), memories.of("b").has_room(0.0, 0.0)) == (False, True)
    memories.of("b").add("x", 5.0, 0.0, 0.0)
    assert (len(memories), memories.ceiling) == (2, 1)
    memories.ceiling = 2
    assert memories.of("a").has_room(0.0, 0.0)
    assert (memories.of("c").ceiling, memories.ceiling) == (2, 2)
