import { useEffect, useState } from "preact/hooks";

import type { GroupDetail, Handler, Parked, PartitionStanding, Verdict } from "../base/api";
import { count, duration, exact, rate, several } from "../base/format";
import { ofFate, ofGroup } from "../base/health";
import { line } from "../base/inert";
import { useQuery } from "../base/query";
import { param, query as parameters, setParams, to } from "../base/route";
import { pastOf } from "../base/system";
import { now } from "../base/time";
import { Chart, Spark } from "../ui/chart";
import { Glyph, State } from "../ui/glyph";
import { type Asking, OperationSheet } from "../ui/operate";
import { Action, Cell, Facts, Head, Panel, Tabs } from "../ui/parts";
import { Blank, Ready } from "../ui/states";
import { Foreign, Id, InTerminal, Time } from "../ui/text";
import { OperationRow } from "./operations";
import { ResetSheet } from "./reset";

type Tab = "standing" | "waiting" | "code" | "history";

export function GroupScreen({ name }: { name: string }) {
  const found = useQuery<GroupDetail>(`/api/groups/${encodeURIComponent(name)}`, 2);
  return (
    <Ready query={found} lines={10}>
      {(group) => <Page group={group} />}
    </Ready>
  );
}

function Page({ group }: { group: GroupDetail }) {
  const [asking, setAsking] = useState<Asking | null>(null);
  const tab = (param("tab") ?? "standing") as Tab;
  const wanted = param("do");
  const resetting = wanted === "reset";

  useEffect(() => {
    if (wanted === "pause" || wanted === "resume") setAsking(toggle(group));
  }, [wanted]);

  const close = () => {
    setAsking(null);
    setParams({ do: null });
  };
  return (
    <>
      <Head title={<Foreign text={group.name} />} crumbs={[["Groups", "/groups"]]}>
        <Action needs="operator" icon={group.paused ? "play" : "pause"} onClick={() => setAsking(toggle(group))}>
          {group.paused ? "Resume…" : "Pause…"}
        </Action>
        <Action needs="admin" icon="undo" onClick={() => setParams({ do: "reset" }, false)}>
          Reset position…
        </Action>
        <a class="button" href={`/map${parameters({ node: `group:${group.name}` })}`}>
          On the map
        </a>
      </Head>
      <VerdictCard group={group} />
      <div class="tiles">
        <Figure name="Waiting" value={count(group.lag)} more={group.lag === null ? "the broker cannot tell" : "events"} />
        <Figure name="Oldest that waits" value={group.lag === 0 ? "nothing" : duration(group.age)} more={group.drained_in === null ? "" : `gone in about ${duration(group.drained_in)}`} />
        <Figure name="Handled" value={rate(group.handled_per_second)} more={group.p50_work === null ? "deliveries, last minute" : `${duration(group.p50_work)} of work in the middle, ${duration(group.p95_work)} at p95`} />
        <Figure name="Failed" value={count(group.failed)} more={`attempts in the last minute; ${several(group.duplicates, "duplicate")} suppressed`} />
      </div>
      <Tabs
        label="Of this group"
        value={tab}
        options={[
          ["standing", `Partitions (${group.partitions.length})`],
          ["waiting", `Parked (${count(group.parked)})`],
          ["code", "Handlers and processes"],
          ["history", `Operations (${group.operations.length})`],
        ]}
      />
      {tab === "standing" && <Standing group={group} />}
      {tab === "waiting" && (
        <>
          <Waiting group={group} />
          <Discarded group={group} />
        </>
      )}
      {tab === "code" && <Code group={group} />}
      {tab === "history" && <History group={group} />}
      <InTerminal words={["groups", "show", group.name]} />
      {asking && <OperationSheet asking={asking} onClose={close} />}
      {resetting && <ResetSheet group={group} onClose={close} />}
    </>
  );
}

function toggle(group: GroupDetail): Asking {
  if (group.paused) {
    return {
      title: `Resume ${line(group.name)}`,
      effect: (
        <p>
          Its processes go on handling where they stopped: {group.lag === null ? "an unknown number of" : exact(group.lag)} events wait.
        </p>
      ),
      verb: "Resume",
      request: { kind: "resume", group: group.name },
      reason: "optional",
    };
  }
  return {
    title: `Pause ${line(group.name)}`,
    effect: (
      <p>
        Every process stops taking events of this group, finishes what it has begun, and stays paused over restarts until somebody resumes it. Nothing is lost: events
        wait.
      </p>
    ),
    verb: "Pause",
    request: { kind: "pause", group: group.name },
    reason: "required",
  };
}

/** Whether a verdict's sentence says more than its word. */
export function says(verdict: Verdict): boolean {
  return verdict.sentence.toLowerCase() !== ofGroup(verdict.state).word.toLowerCase();
}

const RULES: Record<number, string> = {
  0: "Fewer samples than a verdict needs.",
  1: "An operator, or the code, has paused it.",
  2: "It replays to a fixed end: the distance is progress, not lag.",
  3: "Events wait, and no live process owns the partition.",
  4: "Its position went back, and has not come to where it was.",
  5: "Events wait, and the position has not moved over the whole window.",
  6: "It moves on, but the lag was never zero in the window, and does not shrink.",
  7: "The lag was never zero in the window, and shrinks.",
  8: "No lag, and nothing new came in the window.",
  9: "The lag was zero at some sample of the window.",
};

function VerdictCard({ group }: { group: GroupDetail }) {
  const look = ofGroup(group.verdict.state);
  const sentence = line(group.verdict.sentence);
  return (
    <div class={`callout tone-${look.tone}`}>
      <Glyph name={look.glyph} size={14} />
      <div>
        <p>
          {sentence.startsWith(look.word) ? (
            <strong>{sentence}.</strong>
          ) : (
            <>
              <strong>{look.word}.</strong> {sentence}.
            </>
          )}
        </p>
        <details class="small dim">
          <summary>Why?</summary>
          <p style={{ marginTop: "4px" }}>
            Rule {group.verdict.rule}: {RULES[group.verdict.rule] ?? ""} The worst partition decides; the first rule that fits wins. The samples are below.
          </p>
        </details>
        {group.troubles.map((trouble) => (
          <p key={trouble}>{line(trouble)}</p>
        ))}
        {group.note && <p>{line(group.note)}</p>}
      </div>
      {group.dead > 0 && <a href={`/dead?q=${encodeURIComponent(group.name)}`}>{several(group.dead, "dead letter")}</a>}
    </div>
  );
}

function Figure({ name, value, more }: { name: string; value: string; more: string }) {
  return (
    <div class="tile">
      <span class="name">{name}</span>
      <span class="value">{value}</span>
      <span class="more">{more}</span>
    </div>
  );
}

function Standing({ group }: { group: GroupDetail }) {
  const past = curves(group);
  return (
    <>
      <div class="columns">
        <Panel>
          <Chart title="Waiting" at={past.at} series={[{ label: "events", values: past.lag, colour: 0 }]} format={(value) => count(value)} whole />
        </Panel>
        <Panel>
          <Chart title="Oldest that waits" at={past.at} series={[{ label: "age", values: past.age, colour: 1 }]} format={(value) => duration(value)} />
        </Panel>
      </div>
      <Panel title="Partitions" flush>
        {group.partitions.length ? <Partitions partitions={group.partitions} /> : <Blank title="It has no partitions yet" />}
      </Panel>
    </>
  );
}

/** What the console has noted, and after it what this page has seen since. */
function curves(group: GroupDetail): { at: number[]; lag: (number | null)[]; age: (number | null)[] } {
  const noted = group.history.map(({ at, lag, age }) => ({ at, lag, age: lag === 0 ? 0 : age }));
  const seen = pastOf(group.name);
  const first = seen?.at[0] ?? Infinity;
  const earlier = noted.filter((one) => one.at < first);
  return {
    at: [...earlier.map((one) => one.at), ...(seen?.at ?? [])],
    lag: [...earlier.map((one) => one.lag), ...(seen?.lag ?? [])],
    age: [...earlier.map((one) => one.age), ...(seen?.age ?? [])],
  };
}

const MOST_PARTITIONS = 16;

function Partitions({ partitions }: { partitions: PartitionStanding[] }) {
  const [all, setAll] = useState(false);
  const sorted = [...partitions].sort(
    (a, b) => (b.verdict?.severity ?? 5) - (a.verdict?.severity ?? 5) || (b.lag ?? 0) - (a.lag ?? 0) || (a.topic < b.topic ? -1 : a.topic > b.topic ? 1 : a.partition - b.partition),
  );
  const shown = all ? sorted : sorted.slice(0, MOST_PARTITIONS);
  return (
    <div class="scroll">
      <table class="cards">
        <caption class="sr">Partitions with their samples</caption>
        <thead>
          <tr>
            <th>Verdict</th>
            <th>Partition</th>
            <th class="num">Position</th>
            <th class="num">End</th>
            <th class="num">Waiting</th>
            <th>Samples</th>
            <th class="num">Oldest</th>
            <th>Owner</th>
          </tr>
        </thead>
        <tbody>
          {shown.map((one) => (
            <tr key={`${one.topic} ${one.partition}`}>
              <td class="full">
                {one.verdict ? (
                  <>
                    <span title={`Rule ${one.verdict.rule}`}>
                      <State look={ofGroup(one.verdict.state)} />
                    </span>
                    {says(one.verdict) && <div class="small dim">{line(one.verdict.sentence)}</div>}
                  </>
                ) : (
                  <State look={ofGroup("unknown")} />
                )}
              </td>
              <Cell label="Partition">
                <Foreign text={one.topic} /> {one.partition}
              </Cell>
              <Cell label="Position" num>
                {exact(one.position)}
              </Cell>
              <Cell label="End" num>
                {exact(one.head)}
                {one.quality !== "exact" && <div class="small faint">{one.quality}</div>}
              </Cell>
              <Cell label="Waiting" num>
                {count(one.lag)}
              </Cell>
              <td data-label="Samples" style={{ width: "104px" }}>
                {one.samples.some((sample) => sample.lag) ? (
                  <span title={one.samples.map((sample) => count(sample.lag)).join(", ")}>
                    <Spark values={one.samples.map((sample) => sample.lag)} />
                    <span class="small faint">{one.samples.map((sample) => count(sample.lag)).slice(-6).join(" ")}</span>
                  </span>
                ) : (
                  <span class="faint">{several(one.samples.length, "sample")}, all 0</span>
                )}
              </td>
              <Cell label="Oldest" num>
                {one.oldest === null || one.lag === 0 ? "—" : duration(Math.max(0, now.value - one.oldest))}
              </Cell>
              <Cell label="Owner">{one.owner === null ? <span class="faint">nobody</span> : <Id id={one.owner} most={20} />}</Cell>
            </tr>
          ))}
        </tbody>
      </table>
      {sorted.length > shown.length && (
        <div class="scanbar">
          <span>The worst {shown.length} are shown.</span>
          <button type="button" class="button tiny" onClick={() => setAll(true)}>
            All {sorted.length}
          </button>
        </div>
      )}
    </div>
  );
}

/** Where the screen of one parked delivery is. */
export function letterHref(one: Pick<Parked, "group" | "source" | "id">): string {
  return `/dead/letter${parameters({ group: one.group, source: one.source, id: one.id })}`;
}

function Waiting({ group }: { group: GroupDetail }) {
  if (!group.waiting.length) {
    return (
      <Panel flush>
        <Blank title="Nothing is parked" icon="done">
          Deliveries that failed wait here for their next attempt, or for somebody, and later events of their key wait behind them.
        </Blank>
      </Panel>
    );
  }
  return (
    <Panel title={`Parked: ${several(group.waiting.length, "delivery", "deliveries")}`} flush>
      <div class="scroll">
        <table class="cards">
          <thead>
            <tr>
              <th>State</th>
              <th>Event</th>
              <th class="num">Attempts</th>
              <th>Last failure</th>
              <th>Due</th>
              <th>Error</th>
            </tr>
          </thead>
          <tbody>
            {group.waiting.map((one) => (
              <tr key={`${one.source} ${one.id}`} class="link" data-copy={one.id} data-trace={one.id}>
                <td>
                  <State look={ofFate(one.state)} />
                </td>
                <Cell label="Event">
                  <a class="row-link" href={letterHref(one)}>
                    <Foreign text={one.type} /> <Foreign text={one.key ?? one.id} most={22} />
                  </a>
                </Cell>
                <Cell label="Attempts" num>
                  {count(one.attempts)}
                </Cell>
                <Cell label="Last failure">
                  <Time at={one.last} />
                </Cell>
                <Cell label="Due">{one.state === "retry" ? <Time at={one.due} /> : "—"}</Cell>
                <Cell label="Error" full>
                  <Foreign text={one.error || one.reason} />
                </Cell>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </Panel>
  );
}

function Discarded({ group }: { group: GroupDetail }) {
  const [asking, setAsking] = useState<Asking | null>(null);
  if (!group.discarded.length) return null;
  const restore = (one: Parked): Asking => ({
    title: "Restore what was discarded",
    effect: (
      <p>
        <Foreign text={one.type} /> <Foreign text={one.key ?? one.id} mono most={32} /> becomes a dead letter of <Foreign text={group.name} /> again, to be redriven or repaired.
      </p>
    ),
    verb: "Restore",
    request: { kind: "restore", group: group.name, events: [[one.source, one.id]] },
    reason: "optional",
  });
  return (
    <Panel title={`Discarded: ${several(group.discarded.length, "delivery", "deliveries")}`} flush>
      <div class="scroll">
        <table class="cards">
          <thead>
            <tr>
              <th>Event</th>
              <th>Discarded</th>
              <th>Reason</th>
              <th>
                <span class="sr">Actions</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {group.discarded.map((one) => (
              <tr key={`${one.source} ${one.id}`} class="link" data-copy={one.id} data-trace={one.id}>
                <td class="full">
                  <a class="row-link" href={letterHref(one)}>
                    <Foreign text={one.type} /> <Foreign text={one.key ?? one.id} most={22} />
                  </a>
                </td>
                <Cell label="Discarded">
                  <Time at={one.at} />
                </Cell>
                <Cell label="Reason" full>
                  <Foreign text={one.error || one.reason} />
                </Cell>
                <td class="num">
                  <Action needs="operator" kind="tiny" onClick={() => setAsking(restore(one))}>
                    Restore…
                  </Action>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {asking && <OperationSheet asking={asking} onClose={() => setAsking(null)} />}
    </Panel>
  );
}

function Code({ group }: { group: GroupDetail }) {
  return (
    <div class="columns">
      <Panel title="Handlers">
        {group.handlers.length ? (
          group.handlers.map((handler) => <HandlerFacts key={handler.name} handler={handler} />)
        ) : (
          <p class="dim">No process that was heard of declares a handler of this group. If its code is gone for good, `millstream groups forget` removes its position.</p>
        )}
      </Panel>
      <Panel title="Processes" flush>
        {group.processes.length ? (
          <table class="cards">
            <thead>
              <tr>
                <th>State</th>
                <th>Process</th>
                <th>Last heard</th>
              </tr>
            </thead>
            <tbody>
              {group.processes.slice(0, 20).map((process) => (
                <tr key={process.process}>
                  <td class="nowrap">
                    <State look={process.alive ? { tone: "ok", glyph: "dot", word: "Alive" } : { tone: "neutral", glyph: "dash", word: process.stopped ? "Stopped" : "Gone" }} />
                  </td>
                  <Cell label="Process">
                    <Id id={process.process} most={24} />
                    <div class="small faint">
                      pid {process.pid}, version <Foreign text={process.version} />
                    </div>
                  </Cell>
                  <Cell label="Last heard">
                    <Time at={process.seen} />
                  </Cell>
                </tr>
              ))}
            </tbody>
          </table>
        ) : (
          <Blank title="No process was heard of" />
        )}
      </Panel>
    </div>
  );
}

/** What the code says of a handler. */
export function HandlerFacts({ handler }: { handler: Handler }) {
  return (
    <div>
      <h3>
        <Foreign text={handler.name} />
      </h3>
      {handler.summary && <p class="dim">{line(handler.summary)}</p>}
      <Facts
        rows={[
          ["Handles", <Types names={handler.types} />],
          handler.wants ? ["Of these only", <Foreign text={handler.wants} />] : null,
          ["Publishes", <Types names={handler.publishes} />],
          ["Code", <Foreign text={handler.location} mono />],
          ["Delivery", handler.delivery.replaceAll("_", " ")],
          ["Order", handler.ordered ? "kept for each key" : "not kept"],
          ["At once", count(handler.concurrency)],
          ["Attempts", count(handler.attempts)],
          ["Timeout", duration(handler.timeout)],
        ]}
      />
    </div>
  );
}

function Types({ names }: { names: string[] }) {
  if (!names.length) return <span class="faint">nothing declared</span>;
  return (
    <span class="row" style={{ gap: "4px" }}>
      {names.map((name) => (
        <a key={name} class="tag" href={to("contracts", name)}>
          {line(name)}
        </a>
      ))}
    </span>
  );
}

function History({ group }: { group: GroupDetail }) {
  return (
    <Panel flush>
      {group.operations.length ? (
        <div class="scroll">
          <table class="cards">
            <thead>
              <tr>
                <th>Result</th>
                <th>Operation</th>
                <th>When</th>
                <th>By</th>
                <th>Reason</th>
                <th>Detail</th>
              </tr>
            </thead>
            <tbody>
              {group.operations.map((one) => (
                <OperationRow key={one.id} operation={one} />
              ))}
            </tbody>
          </table>
        </div>
      ) : (
        <Blank title="Nobody has changed this group" icon="operations" />
      )}
    </Panel>
  );
}
