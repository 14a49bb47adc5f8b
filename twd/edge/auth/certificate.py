"""The TLS certificate of the API, if it uses HTTPS."""

import ssl

from twd.settings.model import EdgeTlsConfig
from twd.settings.paths import path_of
from twd.wire.failures import FailureCode, TwdError


def tls_context(tls: EdgeTlsConfig) -> ssl.SSLContext | None:
    """The TLS context of the API; None without HTTPS. Raises if the files cannot be used."""
    if not tls.cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(path_of(tls.cert), path_of(tls.key))
    except (OSError, ssl.SSLError) as error:
        text = f"the certificate {tls.cert} with its key {tls.key} cannot be used: {error}"
        raise TwdError(FailureCode.BAD_REQUEST, text, "edge.tls") from None
    return context
