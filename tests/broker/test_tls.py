import asyncio

from streams.partition import partition_of
from streams.producer import Producer
from tests.broker.conftest import Start, until
from tests.broker.test_worker import WORKER
from tests.conftest import Certificate

PROJECTS = [f"p{n}" for n in range(16)]


def publish(kafka: str, prefix: str) -> None:
    """Projects in many partitions."""
    for project in PROJECTS:
        with Producer(kafka, workspace_id="w1", project_id=project, prefix=prefix) as producer:
            producer.project([{"task_id": "t1"}])


async def test_workers_with_one_certificate_answer_for_each_other_and_to_an_operator(
    kafka: str, prefix: str, start: Start, certificate: Certificate
) -> None:
    tls = {"tls_cert": certificate.cert, "tls_key": certificate.key}
    first, second = [await start(*WORKER, broker=kafka, topic_prefix=prefix, **tls) for _ in range(2)]

    async def shared() -> bool:
        owned = [await worker.partitions() for worker in (first, second)]
        return all(owned) and sum(map(len, owned)) == 8

    await until(shared, first, second)
    await asyncio.to_thread(publish, kafka, prefix)

    owned = await first.partitions()
    answers = [await first.get(f"/v1/projects/{project}/active-set") for project in PROJECTS]
    looking = await start("agents", "project", PROJECTS[0], "--url", second.url, tls_ca=certificate.cert)

    assert {partition_of(project.encode(), 8) in owned for project in PROJECTS} == {True, False}
    assert {status for status, _ in answers} == {200}
    assert await looking.ends() == 0, looking.said()
