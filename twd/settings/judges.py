"""Settings of servers elsewhere, of the quality gate and of consensus."""

from typing import Annotated, Literal

from msgspec import Meta

from twd.settings.types import (
    Count,
    HttpUrl,
    Seconds,
    Secret,
    ServerKind,
    SettingSection,
    UrlPath,
    about,
)


class ServerConfig(SettingSection, frozen=True):
    """Another program's HTTP server that runs a model."""

    url: Annotated[HttpUrl, about("Its address.")]
    kind: Annotated[ServerKind, about("What it is; auto: ask it.")] = "auto"
    model_name: Annotated[str, about("The model's name there; empty: the first it lists.")] = ""
    api_key: Annotated[Secret, about("Key that it asks for.")] = ""
    base_path: Annotated[UrlPath, about("Path before its API, such as /api/v1; empty: the usual one of its kind.")] = ""
    timeout_s: Annotated[Seconds, about("Silence after which it counts as hung.")] = 120.0


class ConsensusConfig(SettingSection, frozen=True):
    """Drafters that vote on tokens. Agreement skips the target, so the text is approximate: model NAME+consensus."""

    policy: Annotated[
        Literal["off", "strict", "majority", "any_disagree"],
        about("When drafters may decide tokens alone."),
    ] = "off"
    unread: Annotated[
        Annotated[int, Meta(ge=1, le=256)], about("So many tokens at most stand before the target reads them.")
    ] = 64
    max_error: Annotated[
        Annotated[float, Meta(gt=0.0, lt=1.0)],
        about("Where more of the agreed tokens than this are shown to be wrong, texts are exact again."),
    ] = 0.05
    audit: Annotated[
        Annotated[float, Meta(ge=0.0, le=1.0)],
        about("Share of texts whose last tokens are read, too, where drafters agreed on them."),
    ] = 0.05


class GateRoute(SettingSection, frozen=True):
    """Requests that are served in another mode than the house's."""

    mode: Annotated[Literal["speculate", "direct", "gate", "consensus"], about("How they are served.")]
    key: Annotated[str, about("Name of the key that they come with; empty: any.")] = ""
    max_tokens_from: Annotated[Count, about("They ask for at least so many tokens.")] = 0
    max_tokens_to: Annotated[Count, about("They ask for at most so many tokens; 0: any number.")] = 0


class GateConfig(SettingSection, frozen=True):
    """Others write whole answers, the target judges each: model NAME+gate. Exact until it is calibrated."""

    agents: Annotated[tuple[ServerConfig, ...], about("Servers that write the answers.")] = ()
    fleet: Annotated[tuple[str, ...], about("Names of served models that write the answers, too.")] = ()
    ask: Annotated[Annotated[int, Meta(ge=1, le=8)], about("So many of them write at once.")] = 1
    routes: Annotated[tuple[GateRoute, ...], about("Requests that name no mode; the first that fits counts.")] = ()
    judge: Annotated[
        Literal["auto", "score", "prompt"],
        about("By scores of each token, or in words; auto: in words where it cannot score."),
    ] = "auto"
    hold: Annotated[
        Literal["answer"] | Annotated[int, Meta(ge=1, le=4096)],
        about("Tokens that are judged behind a piece of a stream before it leaves; answer: all."),
    ] = 48
    patience_s: Annotated[Seconds, about("Silence after which a member is given up.")] = 20.0
    audit: Annotated[
        Annotated[float, Meta(ge=0.0, le=1.0)], about("Share of passed answers that the target writes, too.")
    ] = 0.05
    record: Annotated[bool, about("Keep requests in a private file, to calibrate on them.")] = False
    economy: Annotated[
        bool, about("Ask nobody where judging takes as much of the target's time as writing with drafts.")
    ] = True
    verifier: Annotated[str, about("Name of the model behind `gate`; empty: the default model.")] = ""
    routing: Annotated[Literal["round_robin", "random", "adaptive"], about("Which of them writes the next answer.")] = (
        "round_robin"
    )
    verification_prompt: Annotated[str, about("Instruction for verifiers that can only judge in words.")] = ""
    max_retries: Annotated[Annotated[int, Meta(ge=0, le=10)], about("New tries after a rejected answer.")] = 1
    cache_identical: Annotated[bool, about("Remember verdicts on the same request and answer.")] = True
    fail_open: Annotated[bool, about("Let an answer pass when no verdict can be had.")] = False
