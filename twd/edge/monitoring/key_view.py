"""What a key that is limited to some models sees of the others: nothing."""

from collections.abc import Iterable

import msgspec

from twd.edge.auth.access_policy import Principal
from twd.edge.modes import split
from twd.edge.monitoring.status_types import ServiceState, SystemStatus
from twd.edge.openai.answers import ModelCard
from twd.wire.failures import FailureCode, TwdError
from twd.wire.leases.gate import GateFigures


def cards_for(principal: Principal, cards: Iterable[ModelCard]) -> list[ModelCard]:
    """The cards of the names that this key may use."""
    return [card for card in cards if principal.may_use(str(card.twd.get("alias_of", card.id)))]


def card_for(principal: Principal, name: str, cards: Iterable[ModelCard]) -> ModelCard:
    """The card of one name; raises FORBIDDEN for a name that this key may not use, whether it exists or not."""
    card = next((card for card in cards_for(principal, cards) if card.id == name), None)
    if card is None:
        principal.check_model(name)
        raise TwdError(FailureCode.MODEL_NOT_FOUND, f"model {name[:100]!r} is not served now", "model")
    return card


def status_for(principal: Principal, status: SystemStatus) -> SystemStatus:
    """The status without other models and without services that belong to no model."""
    if not principal.limited or principal.key is None:
        return status
    bases = {split(name)[0] for name in principal.key.models}
    return msgspec.structs.replace(
        status,
        stats=GateFigures(),
        agents=[],
        verifier="",
        wins={},
        default_model=status.default_model if status.default_model in bases else "",
        models=[card for card in status.models if card.id in bases],
        services=[one for one in status.services if _model_of(one) in bases],
        pools=[pool for pool in status.pools if pool.model in bases],
        transfers=[],
        warnings=[],
    )


def _model_of(service: ServiceState) -> str:
    return split(str(service.facts.get("model", "")))[0]
