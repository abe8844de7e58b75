"""Ray's client of its jobs API with bounds on how long it waits, which overrides private methods of Ray's."""

import os
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import requests
from ray.job_submission import JobSubmissionClient

from job.ray_private.names import LOG_TAIL
from job.ray_private.pieces import TOKEN_HEADERS, VERSION

_TIMEOUT = (10, 60)  # seconds to connect, and between two bytes of an answer
_HEARTBEAT = 60.0  # seconds after which a connection is asked whether it is still there


class Client(JobSubmissionClient):
    """Raises what Ray's does, and requests.Timeout."""

    def __init__(self, address: str) -> None:
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # which Ray's client prefers to the argument that it is given
        self._url = address
        self._token = TOKEN_HEADERS.get()({})
        super().__init__(address, headers=self._token)
        self._check_connection_and_version(VERSION, f"catdog needs Ray {VERSION} or newer there.")

    def _do_request(self, *arguments: Any, **options: Any) -> requests.Response:
        return super()._do_request(*arguments, **({"timeout": _TIMEOUT} | options))

    async def tail(self, job_id: str) -> AsyncIterator[str]:
        """The job's log from its beginning to its end, as it is written: as `tail_job_logs`, which has no heartbeat."""
        async with aiohttp.ClientSession(headers=self._token, trust_env=True) as session:
            try:
                connection = await session.ws_connect(self._url + LOG_TAIL.format(job_id), heartbeat=_HEARTBEAT)
            except aiohttp.WSServerHandshakeError:
                self.get_job_info(job_id)  # which tells what is wrong, if it is not only the connection
                raise
            async for message in connection:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    raise aiohttp.ClientConnectionError(str(message.data))
                yield message.data
