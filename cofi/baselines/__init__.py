"""What one would do instead of CoFi: other ways to the masks that cut a model. One file each, one line here.

Each gets the same teacher, losses, data order and number of epochs as CoFi, and its result is the same kind of model.
"""

from __future__ import annotations

from cofi.baselines.drop_layers import drop_every_other, drop_top
from cofi.baselines.evidence import Evidence
from cofi.baselines.fisher import by_fisher_scores, fisher_scores
from cofi.baselines.gates import FixedGates, HardGates
from cofi.baselines.importance import prune_ffn, prune_heads
from cofi.baselines.movement import MovementGates, MovementRamp
from cofi.baselines.small_student import small_student

# chosen in one go, before any training: from what is known of the model to masks of zeros and ones
ONE_SHOT = {
    "drop-top-layers": drop_top,
    "drop-every-other-layer": drop_every_other,
    "prune-heads": prune_heads,
    "prune-ffn": prune_ffn,
    "fisher": by_fisher_scores,
    "small-student": small_student,
}
CUT_HIDDEN = frozenset({"small-student"})  # methods whose masks remove hidden dims whatever --mask-kinds says
# learned while pruning, as CoFi's masks are
MOVEMENT = "movement"
COFI = "cofi"
METHODS = (COFI, *ONE_SHOT, MOVEMENT)

__all__ = [
    "COFI",
    "CUT_HIDDEN",
    "METHODS",
    "MOVEMENT",
    "ONE_SHOT",
    "Evidence",
    "FixedGates",
    "HardGates",
    "MovementGates",
    "MovementRamp",
    "fisher_scores",
]
