"""TLS without certificate authorities."""

import ssl


def unverified_context() -> ssl.SSLContext:
    """Return a context for clients that takes any certificate. Authorities are not loaded, which takes some 20 ms."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
