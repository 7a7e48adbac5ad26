"""The routes: what they are called, what they want, and what they answer; `/openapi.json` is made from these."""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from msgspec import Meta

from streams.media import Id
from web.answers import (
    ActiveSet,
    ChangedLease,
    Document,
    Live,
    MediumTold,
    NewLease,
    Organization,
    ProductInfo,
    ProjectTold,
    Ready,
)
from web.leases import LeaseRenewal, LeaseRequest, Skip
from web.query import LARGEST, LIMIT


class Route(NamedTuple):
    """A route.

    answers: the type of a 200; none: it is a 204. media_type: what a 200 comes as. body: the type of what is sent.
    marks: whether asking changes anything.
    tagged: whether a client may keep the answer, and ask by its `ETag` whether it is still so.
    parameters: the types of those behind the question mark; those of `needed` must be there.
    problems: what it may answer besides what every route may.
    """

    path: str
    meaning: str
    name: str
    answers: Any
    marks: bool = False
    tagged: bool = False
    method: str = "GET"
    parameters: Mapping[str, Any] = {}
    needed: tuple[str, ...] = ()
    body: Any = None
    problems: tuple[int, ...] = ()
    media_type: str = "application/json"


AnyLimit = Annotated[int, Meta(ge=1, extra_json_schema={"default": LIMIT})]
Limit = Annotated[int, Meta(ge=1, le=LARGEST, extra_json_schema={"default": LIMIT})]
TaskId = Annotated[str, Meta(min_length=1)]


ACTIVE = Route(
    "/api/v1/organizations/{organization}/workspaces/{workspace}/projects/{project}/datasets/active",
    "the active set, as Geti has it, of `task_id` (without it, of the whole project), `limit` media (100; above "
    "1,000 it is 1,000); marks them as suggested: no other request gets them while others are left",
    "GetActiveDataset",
    ActiveSet,
    marks=True,
    parameters={"task_id": TaskId, "limit": AnyLimit},
    problems=(404,),
)
ACTIVE_SET = Route(
    "/v1/projects/{project}/active-set",
    "the same, and marks nothing; a parameter that nobody knows is an error, and so is a `limit` above 1,000",
    "GetActiveSet",
    ActiveSet,
    tagged=True,
    parameters={"task_id": TaskId, "limit": Limit},
    problems=(404,),
)
MEDIUM = Route(
    "/v1/projects/{project}/media/{medium}",
    "a medium, `image:<id>` or `frame:<video id>:<index>`: whether it may be had, its rank by score in the project "
    "or in `task_id`, and why: score, tier, what it stands for in a set of 100, and of each task utilities, label, "
    "model, and when it was scored",
    "GetMedium",
    MediumTold,
    tagged=True,
    parameters={"task_id": TaskId},
    problems=(404,),
)
PROJECT = Route(
    "/v1/projects/{project}",
    "a project: its media by state and tier, the share of the pool that the active model has scored, how scores and "
    "labels lie in the pool and in what is annotated, and how fresh it is",
    "GetProject",
    ProjectTold,
    tagged=True,
    problems=(404,),
)
LEASES = "/v1/projects/{project}/leases"
OF_LEASE = (403, 404, 410)
LEASE = Route(
    LEASES,
    "leases the best `limit` media (10; at most 1,000) of `task_id` or the whole project to `user_id` for `ttl_s` "
    "seconds (600; at most 604,800): nobody else gets them meanwhile; with a lease's `request_id`, that lease again",
    "LeaseMedia",
    NewLease,
    marks=True,
    method="POST",
    body=LeaseRequest,
    problems=(404, 409),
)
RENEW = Route(
    f"{LEASES}/{{lease}}",
    "the lease ends `ttl_s` seconds from now; `user_id` must have it",
    "RenewLease",
    ChangedLease,
    marks=True,
    method="PATCH",
    body=LeaseRenewal,
    problems=OF_LEASE,
)
RELEASE = Route(
    f"{LEASES}/{{lease}}",
    "the lease is over, and its media are for others; the parameter `user_id` must have it",
    "ReleaseLease",
    ChangedLease,
    marks=True,
    method="DELETE",
    parameters={"user_id": Id},
    needed=("user_id",),
    problems=OF_LEASE,
)
SKIP = Route(
    f"{LEASES}/{{lease}}/skips",
    "gives `media` of the lease back (without it, all that it has); `for` tells whom they are not for any more: `me` "
    "(others may get them), `others` (only `user_id` may), `good` (nobody may)",
    "SkipMedia",
    ChangedLease,
    marks=True,
    method="POST",
    body=Skip,
    problems=OF_LEASE,
)
PRODUCT = Route(
    "/api/v1/product_info", "the version of Geti whose client is served", "GetProductInfo", ProductInfo, tagged=True
)
ORGANIZATION = Route(
    "/api/v1/personal_access_tokens/organization",
    "an organization for Geti's client, whatever its token: any is as good",
    "GetOrganization",
    Organization,
    tagged=True,
)
BALANCE = Route(
    "/api/v1/organizations/{organization}/balance",
    "204: Geti's client learns that nothing costs credits",
    "GetBalance",
    None,
)
LIVEZ = Route(
    "/livez",
    "200 while the process is worth keeping; 503 when it does not get on any more, and ends",
    "GetLiveness",
    Live,
)
READYZ = Route(
    "/readyz",
    "200 with the partitions it answers for, or 503 with `Retry-After` while it starts or catches up, its partitions "
    "move, it has lost Kafka, or it stops",
    "GetReadiness",
    Ready,
)
METRICS = Route(
    "/metrics",
    "what this worker has done and how it stands, for Prometheus (text format 0.0.4), also while it is not ready",
    "GetMetrics",
    str,
    media_type="text/plain",
)
OPENAPI = Route("/openapi.json", "these routes as OpenAPI 3.1, for programs", "GetOpenApi", Document, tagged=True)
ROUTES = (
    ACTIVE,
    ACTIVE_SET,
    MEDIUM,
    PROJECT,
    LEASE,
    RENEW,
    RELEASE,
    SKIP,
    PRODUCT,
    ORGANIZATION,
    BALANCE,
    LIVEZ,
    READYZ,
    METRICS,
    OPENAPI,
)
