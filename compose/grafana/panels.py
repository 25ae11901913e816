"""The parts that all dashboards are made of: panels, variables, annotations and links."""

from collections.abc import Sequence
from typing import NamedTuple

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    FieldColorModeId,
    Panel,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableModel,
    VariableRefresh,
)

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "rag-outbox"
INTERVAL = "$__rate_interval"  # Grafana's: at least four scrapes
EVENTS_PER_SECOND = "suffix: events/s"
COLOURS = ("green", "yellow", "red")
WIDTH = 24  # of a row, in Grafana's units
Variable = Builder[VariableModel]


class Query(NamedTuple):
    """`legend` may name labels as {{label}}."""

    legend: str
    expression: str


def graph(title: str, description: str, unit: str, *queries: Query, limits: Sequence[float] = ()) -> Builder[Panel]:
    """Lines over time, three panels per row. `limits` are drawn: from the first on yellow, from the second on red."""
    legend = common.VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.LIST)
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .height(8)
        .span(WIDTH // 3)
        .min(0)
        .fill_opacity(10)
        .legend(legend.placement(LegendPlacement.BOTTOM))
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        .targets(_targets(queries))
    )
    if limits:
        dashes = common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED)
        panel.thresholds(_thresholds(limits)).thresholds_style(dashes)
    return panel


def number(
    title: str, description: str, unit: str, *queries: Query, limits: Sequence[float] = (), columns: int = 6
) -> Builder[Panel]:
    """The newest value in large type; green, from the first limit on yellow, from the second on red."""
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .height(4)
        .span(WIDTH // columns)
        .graph_mode(BigValueGraphMode.AREA)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(_thresholds(limits))
        .targets(_targets(queries))
    )


def states(title: str, description: str, query: Query) -> Builder[Panel]:
    """A bar per series over the whole width: red and "no" where the value is 0, green and "yes" where it is 1."""
    words = ValueMap(options={str(value): ValueMappingResult(text=text) for value, text in enumerate(("no", "yes"))})
    steps = [Threshold(value=None, color="red"), Threshold(value=1, color="green")]
    return (
        statetimeline.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .height(7)
        .span(WIDTH)
        .mappings([words])
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .targets(_targets([query]))
    )


def quantiles(metric: str, by: str = "", selector: str = "") -> list[Query]:
    """The median and the 99th percentile of a histogram, per label `by` if one is given."""
    labels = f"le, {by}" if by else "le"
    prefix = f"{{{{{by}}}}} " if by else ""
    rates = f"sum by ({labels}) (rate({metric}_bucket{selector}[{INTERVAL}]))"
    return [
        Query(f"{prefix}{name}", f"histogram_quantile({share}, {rates})")
        for name, share in (("p50", 0.5), ("p99", 0.99))
    ]


def of_kind(expression: str, kind: str) -> str:
    """Only the series of processes of one kind."""
    return f'{expression} and on (job, instance) rag_outbox_process_info{{kind="{kind}"}}'


def datasource() -> Variable:
    return dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")


def label_values(name: str, label: str, metric: str, key: str) -> Variable:
    """A variable with the values that a label of a metric has; all of them unless some are chosen."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(f"label_values({metric}, {key})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".+")
    )


def sink() -> Variable:
    return label_values("sink", "Sink", "rag_outbox_oldest_unapplied_age_seconds", "sink")


def group() -> Variable:
    return label_values("group", "Consumer group", "rag_outbox_partitions_unassigned", "consumergroup")


def board(title: str, description: str, *variables: Variable) -> dashboard.Dashboard:
    """An empty dashboard with links to the others, and marks where lanes or partitions moved or a relay was fenced."""
    links = dashboard.DashboardLink("Other dashboards").type(DashboardLinkType.DASHBOARDS)
    return (
        dashboard.Dashboard(f"rag-outbox: {title}")
        .uid(f"{TAG}-{title.lower()}")
        .description(description)
        .tags([TAG])
        .readonly()
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("10s")
        .link(links.tags([TAG]).keep_time(True).include_vars(True))
        .variables([datasource(), *variables])
        .annotation(_mark("Lanes moved", "blue", "changes(rag_outbox_relay_lanes_owned"))
        .annotation(_mark("Partitions moved", "purple", "changes(rag_outbox_consumer_partitions_owned"))
        .annotation(_mark("Relay fenced", "red", "increase(rag_outbox_relay_fenced_total"))
    )


def _mark(name: str, colour: str, start: str) -> dashboard.AnnotationQuery:
    expression = f"sum({start}[1m])) > 0"  # Grafana asks for annotations once per minute
    return dashboard.AnnotationQuery().name(name).datasource(SOURCE).enable(True).icon_color(colour).expr(expression)


def _targets(queries: Sequence[Query]) -> list[Builder[Dataquery]]:
    letters = "ABCDEFGH"
    return [
        prometheus.Dataquery().ref_id(letter).expr(one.expression).legend_format(one.legend).range()
        for letter, one in zip(letters, queries, strict=False)
    ]


def _thresholds(limits: Sequence[float]) -> dashboard.ThresholdsConfig:
    steps = zip(COLOURS, [None, *limits], strict=False)
    return (
        dashboard.ThresholdsConfig()
        .mode(ThresholdsMode.ABSOLUTE)
        .steps([Threshold(value=value, color=colour) for colour, value in steps])
    )
