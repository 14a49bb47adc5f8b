"""The settings with another broker."""

import msgspec

from twd.settings.model import Settings


def with_broker(settings: Settings, url: str, token: str, fingerprint: str) -> Settings:
    """The settings with this broker as the bus."""
    tls = msgspec.structs.replace(settings.bus.tls, fingerprint=fingerprint)
    bus = msgspec.structs.replace(settings.bus, url=url, token=token, tls=tls)
    return msgspec.structs.replace(settings, bus=bus)
