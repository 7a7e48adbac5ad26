"""The Faust application, with every default that matters set on purpose."""

from streams.overrides import MIB, OurApp, OurTable, OurTables
from streams.record import MESSAGE_BYTES
from streams.settings import Settings
from streams.tls import served

APP_ID = "activeset"
BODY_BYTES = 64 * 1024  # of a request
YEAR_S = 365 * 24 * 3600.0
REBALANCE_S = 30.0  # for every member to come back when partitions move; who does not is out


def new_app(settings: Settings) -> OurApp:
    """An application that has connected to nothing yet.

    Declares no topics (streams/topics.py does) and discovers no modules (agents/worker.py joins the parts).

    Raises:
        BadSettings: the web server has no certificate where it should have one.
    """
    app = OurApp(
        id=settings.name(APP_ID),
        broker=[f"kafka://{address}" for address in settings.broker.split(",")],
        store="rocksdb://",
        datadir=str(settings.worker_dir),
        autodiscover=False,
        Table=OurTable,
        TableManager=OurTables,
        key_serializer="raw",
        value_serializer="raw",
        topic_partitions=settings.partitions,
        topic_replication_factor=settings.replication,
        topic_allow_declare=False,
        topic_disable_leader=True,
        processing_guarantee="at_least_once",
        recovery_consistency_check=False,  # tables/state.py sees to it, and mends what it finds
        table_standby_replicas=0,
        # A member that dies is noticed after the session timeout; three heartbeats fit into it.
        broker_session_timeout=float(settings.session_timeout_s),
        # Often: by it a member also learns that partitions move, and what it last heard tells what it may answer.
        broker_heartbeat_interval=min(settings.session_timeout_s / 4, 3.0),
        # A worker without a partition polls nothing, and would be thought dead and leave; agents/watch.py looks better.
        broker_max_poll_interval=YEAR_S,
        broker_rebalance_timeout=REBALANCE_S,
        broker_request_timeout=max(30.0, settings.session_timeout_s + 5.0),
        broker_commit_interval=1.0,
        # One fetch is what may wait beyond what should.
        broker_max_poll_records=16,
        # 4,096 messages (Faust's default) of 1 MB would be 4 GiB.
        stream_buffer_maxsize=settings.queue_records,
        consumer_max_fetch_size=MESSAGE_BYTES,
        consumer_auto_offset_reset="earliest",
        producer_max_request_size=MESSAGE_BYTES,
        producer_request_timeout=60.0,
        producer_acks=-1,
        web_bind=settings.web_bind,
        web_port=settings.web_port,
        web_ssl_context=served(settings),
        canonical_url=settings.url_for_others,  # Faust's own is always `http`
        web_application_options={"client_max_size": BODY_BYTES},
        # Faust's own pages serve data to anyone.
        web_tables_enabled=False,
        web_router_enabled=False,
        web_stats_enabled=False,
        web_graph_enabled=False,
        web_metrics_enabled=False,
        debug=False,
        worker_redirect_stdouts=False,
    )
    app.fetch_bytes = settings.fetch_mib * MIB
    return app
