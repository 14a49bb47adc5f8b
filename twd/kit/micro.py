"""Answers PING, INFO and STATS of NATS' service convention, so that `nats micro ls` lists our services."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import twd
from twd.bus.base import BusMessage, SubscriptionOptions
from twd.wire.routes import ROUTE_OF

if TYPE_CHECKING:
    from twd.kit.service import Service


class MicroEndpoints:
    """Answers PING, INFO and STATS for one service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._name = f"twd-{service.name}"
        self._id = service.instance.rsplit(".", 1)[-1]

    def hearings(self) -> list[SubscriptionOptions]:
        """Return the subscriptions to the nine subjects of the convention."""
        return [
            SubscriptionOptions(subject, self._answerer(verb))
            for verb in ("PING", "INFO", "STATS")
            for subject in (f"$SRV.{verb}", f"$SRV.{verb}.{self._name}", f"$SRV.{verb}.{self._name}.{self._id}")
        ]

    def _answerer(self, verb: str) -> Any:
        def answer(message: BusMessage) -> None:
            if message.reply:
                body = self._identity(verb) | (self._details(verb))
                self._service.bus.publish(message.reply, json.dumps(body).encode())

        return answer

    def _identity(self, verb: str) -> dict[str, Any]:
        return {
            "type": f"io.nats.micro.v1.{verb.lower()}_response",
            "name": self._name,
            "id": self._id,
            "version": twd.__version__,
            "metadata": {"instance": self._service.instance, "node": self._service.ctx.node},
        }

    def _details(self, verb: str) -> dict[str, Any]:
        endpoints = [
            {"name": ROUTE_OF[event].tag.replace(".", "-"), "subject": self._service.pattern(event)}
            for event in self._service.reads
        ]
        if verb == "INFO":
            return {"description": (type(self._service).__doc__ or "").splitlines()[0], "endpoints": endpoints}
        if verb == "STATS":
            stats = self._service.bus.stats
            return {
                "started": self._service.lease().started_ms,
                "endpoints": endpoints,
                "data": {
                    "health": self._service.health.value,
                    "handled": self._service.handled,
                    "rejected": sum(self._service.unread.rejected.values()),
                    "sent": stats.sent,
                    "received": stats.received,
                    "dropped": stats.dropped,
                    "reconnects": stats.reconnects,
                },
            }
        return {}
