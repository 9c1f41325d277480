"""The drop reasons that other languages read are those of the enum, in the same order."""

import json

from golden import VECTORS, load
from relay.core.reasons import DropReason


def test_the_shared_list_of_drop_reasons_is_the_enum():
    wanted = {reason.name: reason.value for reason in DropReason}
    found = load("reasons")["reasons"]
    # To renew the file, paste this over its "reasons".
    assert list(found.items()) == list(wanted.items()), json.dumps(wanted, indent=1)
    assert (VECTORS / "reasons.json").read_text().endswith("}\n")
