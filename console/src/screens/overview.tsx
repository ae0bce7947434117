import type { Attention, Group, Overview, Rate } from "../base/api";
import { count, duration, rate, several } from "../base/format";
import { ofFate, ofGroup } from "../base/health";
import { line } from "../base/inert";
import { useQuery } from "../base/query";
import { to } from "../base/route";
import { MiniMap } from "../map/mini";
import { Chart, Spark } from "../ui/chart";
import { Glyph, State } from "../ui/glyph";
import { Head, Panel } from "../ui/parts";
import { Blank, Ready } from "../ui/states";
import { Foreign } from "../ui/text";
import { OperationRow } from "./operations";

export function OverviewScreen() {
  const found = useQuery<Overview>("/api/overview", 2);
  return (
    <Ready query={found} lines={12}>
      {(overview) => <Page overview={overview} />}
    </Ready>
  );
}

function Page({ overview }: { overview: Overview }) {
  const nothing = !overview.groups.length && !overview.processes.length;
  return (
    <>
      <Head title={<Sentence overview={overview} />} below={<Alive overview={overview} />} />
      {overview.trouble && (
        <p class="callout tone-error" role="alert">
          <Glyph name="cross" />
          <span>The broker cannot be asked: {line(overview.trouble)}</span>
        </p>
      )}
      {nothing ? <NothingYet /> : <Content overview={overview} />}
    </>
  );
}

function Sentence({ overview }: { overview: Overview }) {
  const worst = overview.attention.length ? (overview.attention.some((one) => one.kind === "dead" || one.state !== "behind") ? "error" : "warn") : "ok";
  const glyph = worst === "ok" ? "dot" : worst === "warn" ? "up" : "square";
  return (
    <span class="row" style={{ alignItems: "baseline", flexWrap: "nowrap" }}>
      <span class={`tone-${worst}`} style={{ color: "var(--tone)" }}>
        <Glyph name={glyph} size={14} />
      </span>
      <span>{line(overview.sentence)}</span>
    </span>
  );
}

function Alive({ overview }: { overview: Overview }) {
  const alive = overview.processes.filter((process) => process.alive);
  const services = new Set(alive.map((process) => process.app)).size;
  return (
    <>
      {several(services, "service")} in {several(alive.length, "process", "processes")}, {several(overview.groups.length, "group")}
    </>
  );
}

function NothingYet() {
  return (
    <Panel flush>
      <Blank title="No events yet" command="millstream demo shop" icon="map">
        <p>Services tell of themselves when the setting `facts` is on. Start one of yours, or the shop:</p>
      </Blank>
    </Panel>
  );
}

/** Counts of one kind, in steps without gaps; the last step is not over yet, and is left out. */
function steps(rates: Rate[], kinds: string[]): { at: number[]; values: number[] } {
  if (!rates.length) return { at: [], values: [] };
  const first = Math.min(...rates.map((one) => one.at));
  const last = Math.max(...rates.map((one) => one.at));
  const step = rates[0]?.step ?? 1;
  const sums = new Map<number, number>();
  for (const one of rates) if (kinds.includes(one.kind)) sums.set(one.at, (sums.get(one.at) ?? 0) + one.count);
  const at: number[] = [];
  const values: number[] = [];
  for (let time = first; time < last; time += step) {
    at.push(time);
    values.push((sums.get(time) ?? 0) / step);
  }
  return { at, values };
}

function Content({ overview }: { overview: Overview }) {
  const published = steps(overview.rates, ["published"]);
  const handled = steps(overview.rates, ["handled"]);
  const failed = steps(overview.rates, ["retry", "parked"]);
  return (
    <>
      <div class="tiles">
        <Tile name="Published" value={rate(overview.published_per_second)} more="over the last minute" values={published.values} colour={0} />
        <Tile name="Handled" value={rate(overview.handled_per_second)} more="deliveries, over the last minute" values={handled.values} colour={3} />
        <Tile name="Published to handled, p95" value={duration(overview.p95_latency)} more={`${duration(overview.mean_latency)} on average, over the last minute`} />
        <Tile name="Oldest that waits" value={overview.oldest === null ? "nothing" : duration(overview.oldest)} more={overview.oldest === null ? "everything is handled" : "since it was published"} />
      </div>
      <Panel title="Flow" actions={<a href="/map" class="small">Open the map</a>} flush>
        <MiniMap />
      </Panel>
      <div class="columns">
        <div class="stack">
          <Panel title="Needs attention" flush>
            <AttentionList attention={overview.attention} />
          </Panel>
          <Panel title="Groups" actions={<a href="/groups" class="small">All groups</a>} flush>
            <GroupList groups={overview.groups} />
          </Panel>
        </div>
        <div class="stack">
          <Panel>
            {published.at.length > 1 ? (
              <Chart
                title="Events a second"
                at={published.at}
                series={[
                  { label: "published", values: published.values, colour: 0 },
                  { label: "handled", values: handled.values, colour: 3 },
                  { label: "failed", values: failed.values, colour: 4, tone: "error" },
                ]}
                format={rate}
              />
            ) : (
              <p class="dim">Rates are drawn as soon as something flows.</p>
            )}
          </Panel>
          <Panel title="Last operations" actions={<a href="/operations" class="small">All operations</a>} flush>
            {overview.operations.length ? (
              <table class="cards">
                <thead class="sr">
                  <tr>
                    <th>Result</th>
                    <th>What</th>
                    <th>When</th>
                  </tr>
                </thead>
                <tbody>
                  {overview.operations.slice(0, 5).map((one) => (
                    <OperationRow key={one.id} operation={one} short />
                  ))}
                </tbody>
              </table>
            ) : (
              <p class="dim" style={{ padding: "12px 16px" }}>
                Nobody has changed anything.
              </p>
            )}
          </Panel>
        </div>
      </div>
    </>
  );
}

function Tile({ name, value, more, values, colour }: { name: string; value: string; more: string; values?: number[]; colour?: number }) {
  return (
    <div class="tile">
      <span class="name">{name}</span>
      <span class="value">{value}</span>
      <span class="more">{more}</span>
      {values && (
        <div class="spark-place">
          <Spark values={values.slice(-180)} {...(colour === undefined ? {} : { colour })} />
        </div>
      )}
    </div>
  );
}

function AttentionList({ attention }: { attention: Attention[] }) {
  if (!attention.length) {
    return (
      <p class="row" style={{ padding: "12px 16px" }}>
        <State look={{ tone: "ok", glyph: "dot", word: "Nothing" }} /> <span class="dim">No group is behind, and there are no dead letters.</span>
      </p>
    );
  }
  return (
    <table class="cards">
      <thead class="sr">
        <tr>
          <th>State</th>
          <th>What</th>
        </tr>
      </thead>
      <tbody>
        {attention.map((one) => (
          <tr key={one.kind + one.what} class="link">
            <td class="nowrap">
              <State look={one.state === "dead" ? ofFate("dead") : ofGroup(one.state)} />
            </td>
            <td class="full" style={{ width: "100%" }}>
              <a class="row-link" href={one.kind === "dead" ? to("dead", one.what) : to("groups", one.what)}>
                {one.kind === "dead" ? line(one.sentence) : <Foreign text={one.what} />}
              </a>
              {one.kind === "group" && <div class="dim">{line(one.sentence)}</div>}
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function GroupList({ groups }: { groups: Group[] }) {
  if (!groups.length) return <p class="dim" style={{ padding: "12px 16px" }}>No group has a position yet.</p>;
  return (
    <table>
      <thead>
        <tr>
          <th>Group</th>
          <th class="num">Waiting</th>
          <th class="num">Handled</th>
        </tr>
      </thead>
      <tbody>
        {groups.slice(0, 12).map((group) => (
          <tr key={group.name} class="link">
            <td class="full">
              <a class="row-link" href={to("groups", group.name)}>
                <Foreign text={group.name} />
              </a>
              <div class="small">
                <State look={ofGroup(group.verdict.state)} />
              </div>
            </td>
            <td class="num" title={group.age === null ? undefined : `the oldest for ${duration(group.age)}`}>
              {count(group.lag)}
            </td>
            <td class="num">{rate(group.handled_per_second)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

