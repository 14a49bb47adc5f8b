"""What Hugging Face means when it refuses, in words that say what to do."""

from collections.abc import Sequence

from twd.models.client import HubClient, HubError
from twd.wire.failures import FailureCode, TwdError


def explained(error: HubError, hub: HubClient, repo: str, revision: str = "", near: Sequence[str] = ()) -> TwdError:
    """Return what a hub's refusal means, with what to do about it."""
    said, url, host = error.said, hub.endpoint, hub.host
    if error.hub_code == "GatedRepo" or (error.status in (401, 403) and "gated" in said.lower()):
        token = "your token's account has no access yet" if hub.has_token else "set HF_TOKEN, too"
        text = f"{repo} is gated: accept its terms at {url}/{repo}; {token} ({url}/settings/tokens)"
        return TwdError(FailureCode.BAD_REQUEST, text, "HF_TOKEN")
    if error.hub_code == "RevisionNotFound":
        return TwdError(FailureCode.MODEL_NOT_FOUND, f"{repo} has no revision {revision}; `main` is the usual one")
    if error.status == 404 or (error.status == 401 and (error.hub_code or not hub.has_token)):
        asked = f"; near names: {', '.join(near)}" if near else ""
        private = "" if hub.has_token else ", or it is private and needs HF_TOKEN"
        text = f"{host} knows no repository {repo}{private}{asked}. Correct the name"
        return TwdError(FailureCode.MODEL_NOT_FOUND, text)
    if error.status in (401, 403):
        text = f"{host} does not accept the token for {repo} ({said}): make one at {url}/settings/tokens, or unset it"
        return TwdError(FailureCode.BAD_REQUEST, text, "HF_TOKEN")
    if error.status == 429:
        help_line = "" if hub.has_token else "; HF_TOKEN raises its limit"
        return TwdError(FailureCode.RATE_LIMITED, f"{error}{help_line}")
    return error
