// What a dashboard of ours may be, in the words of Grafana's own types: also inside each panel, which Grafana leaves open.
import type * as grafana from "@grafana/schema";
import type * as BarGauge from "@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen";
import type * as Stat from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type * as StateTimeline from "@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen";
import type * as Table from "@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";
import type * as TimeSeries from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

// JSON has an enum's value where TypeScript wants the enum.
export type Plain<T> = T extends string
  ? `${T}`
  : T extends object
    ? { [Key in keyof T]: Plain<T[Key]> }
    : T;

// What Grafana's Prometheus data source adds to a query; it publishes no types of it.
interface PrometheusQuery extends grafana.DataQuery {
  datasource: grafana.DataSourceRef;
  editorMode: "code" | "builder";
  expr: string;
  format: "time_series" | "table" | "heatmap";
  instant: boolean;
  legendFormat: string;
  range: boolean;
}

// An annotation's query is a query with the same names and fewer of them.
interface PrometheusAnnotation extends Omit<grafana.AnnotationQuery, "target"> {
  target: { expr: string; interval: string; refId: string };
  textFormat: string;
  titleFormat: string;
}

interface PanelOf<Type extends string, Options, Custom> extends Omit<grafana.Panel, "fieldConfig" | "options" | "targets"> {
  datasource: grafana.DataSourceRef;
  description: string;
  fieldConfig: {
    defaults: Omit<grafana.FieldConfig, "custom"> & { custom?: Custom };
    overrides: grafana.FieldConfigSource["overrides"];
  };
  gridPos: grafana.GridPos;
  id: number;
  options: Options;
  targets: PrometheusQuery[];
  title: string;
  type: Type;
}

type AnyPanel =
  | PanelOf<"bargauge", BarGauge.Options, Record<string, never>>
  | PanelOf<"stat", Stat.Options, Record<string, never>>
  | PanelOf<"state-timeline", StateTimeline.Options, StateTimeline.FieldConfig>
  | PanelOf<"table", Table.Options, Table.FieldConfig>
  | PanelOf<"timeseries", TimeSeries.Options, TimeSeries.FieldConfig>
  | grafana.RowPanel;

interface OurDashboard extends Omit<grafana.Dashboard, "panels" | "annotations"> {
  annotations: { list: PrometheusAnnotation[] };
  panels: AnyPanel[];
  title: string;
  uid: string;
}

export type Dashboard = Plain<OurDashboard>;
