from relay.core.reasons import DropReason


def test_a_reason_is_its_own_metric_label():
    for reason in DropReason:
        assert reason.value == reason.name.lower() == str(reason)
