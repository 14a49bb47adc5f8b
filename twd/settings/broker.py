"""The settings with another broker."""

import msgspec

from twd.settings.model import Settings


def with_broker(settings: Settings, url: str, fingerprint: str, *, token: str = "", nkey_dir: str = "") -> Settings:
    """The settings with this broker as the bus, and one way to sign in."""
    tls = msgspec.structs.replace(settings.bus.tls, fingerprint=fingerprint)
    bus = msgspec.structs.replace(settings.bus, url=url, token=token, nkey_dir=nkey_dir, tls=tls)
    return msgspec.structs.replace(settings, bus=bus)
