import { useState } from "preact/hooks";

import type { Contract, EventPage, FlowMap, GroupDetail, GroupState, Process } from "../base/api";
import { count, duration, rate, several } from "../base/format";
import { ofGroup } from "../base/health";
import { line } from "../base/inert";
import { useQuery } from "../base/query";
import { query as parameters, to } from "../base/route";
import { fields } from "../base/schema";
import { pastOf } from "../base/system";
import { usesOf } from "../base/topology";
import { Chart } from "../ui/chart";
import { State } from "../ui/glyph";
import { Icon } from "../ui/icon";
import { type Asking, OperationSheet } from "../ui/operate";
import { Action, Facts } from "../ui/parts";
import { Ready } from "../ui/states";
import { Foreign, Id, Time } from "../ui/text";
import { Chips } from "../screens/topics";
import { eventHref } from "../screens/events";
import { type Edge, type Graph, meanOf, type Node } from "./model";

/** What is known of what is selected, beside the map. */
export function Inspector({ map, graph, selected, onClose, onFocus }: { map: FlowMap; graph: Graph; selected: string; onClose: () => void; onFocus: (id: string) => void }) {
  const node = graph.nodes.find((one) => one.id === selected);
  const edge = graph.edges.find((one) => one.id === selected);
  const title = node ? line(node.label) : edge ? `${short(edge.from)} → ${short(edge.to)}` : line(selected);
  return (
    <aside class="inspector" aria-label={`About ${title}`}>
      <header>
        <h2>{title}</h2>
        {node && (
          <button type="button" class="button tiny" onClick={() => onFocus(node.id)} title="Only this and what it touches (Enter)">
            <Icon name="focus" size={14} /> Focus
          </button>
        )}
        <button type="button" class="button plain tiny icon" aria-label="Close" onClick={onClose}>
          <Icon name="close" />
        </button>
      </header>
      <div class="inside">
        {node?.kind === "event" && <AboutEvent map={map} name={node.id.slice("event:".length)} />}
        {node?.kind === "handler" && <AboutGroup node={node} />}
        {(node?.kind === "producer" || node?.kind === "service") && <AboutService node={node} graph={graph} />}
        {edge && <AboutEdge edge={edge} window={graph.window} />}
        {!node && !edge && <p class="dim">It is not on the map any more.</p>}
        {node && <Impact graph={graph} node={node} />}
      </div>
    </aside>
  );
}

const short = (id: string) => line(id.slice(id.indexOf(":") + 1));

/** What depends on a node. */
function Impact({ graph, node }: { graph: Graph; node: Node }) {
  const seen = new Set<string>();
  let front = [node.id];
  while (front.length) {
    const next = graph.edges.filter((edge) => front.includes(edge.from) && !seen.has(edge.to)).map((edge) => edge.to);
    for (const id of next) seen.add(id);
    front = [...new Set(next)];
  }
  seen.delete(node.id);
  const groups = [...seen].filter((id) => id.startsWith("group:") || id.startsWith("service:")).length;
  return <p class="small faint">{groups ? `${several(groups, "handler")} ${groups === 1 ? "depends" : "depend"} on it, directly or through others.` : "Nothing comes after it."}</p>;
}

/** How a group stands, in one sentence: its word, and what else there is to say. */
function Standing({ state, sentence }: { state: GroupState; sentence: string }) {
  const look = ofGroup(state);
  const said = line(sentence);
  const whole = said.toLowerCase().startsWith(look.word.toLowerCase());
  return (
    <p>
      <State look={look} word={whole ? said : look.word} /> {!whole && <span class="dim">{said}</span>}
    </p>
  );
}

function AboutGroup({ node }: { node: Node }) {
  const name = node.node.group ?? node.id.slice("group:".length);
  const found = useQuery<GroupDetail>(`/api/groups/${encodeURIComponent(name)}`, 3);
  const [asking, setAsking] = useState<Asking | null>(null);
  const past = pastOf(name);
  return (
    <Ready query={found} lines={5}>
      {(group) => (
        <>
          <Standing {...group.verdict} />
          {group.handlers.map((handler) => (
            <div key={handler.name}>
              {handler.summary && <p class="dim">{line(handler.summary)}</p>}
              <p class="small faint">
                <Foreign text={handler.location} mono />
              </p>
            </div>
          ))}
          <Facts
            rows={[
              ["Group", <a href={to("groups", name)}>{line(name)}</a>],
              ["Waiting", `${count(group.lag)}${group.lag ? `, the oldest for ${duration(group.age)}` : ""}`],
              ["Handled", `${rate(group.handled_per_second)}, work p95 ${duration(group.p95_work)}`],
              ["Failed", `${count(group.failed)} in the last minute`],
              ["Duplicates", `${count(group.duplicates)} suppressed`],
              ["Processes", group.instances ? count(group.instances) : "none alive"],
              ["Delivery", group.handlers[0]?.delivery.replaceAll("_", " ") ?? "—"],
              ["Dead letters", group.dead ? <a href={`/dead?q=${encodeURIComponent(name)}`}>{count(group.dead)}</a> : "none"],
            ]}
          />
          {past && past.at.length > 2 && <Chart title="Waiting" at={past.at} series={[{ label: "events", values: past.lag, colour: 0 }]} format={(value) => count(value)} height={110} whole />}
          <div class="row">
            <a class="button" href={to("groups", name)}>
              Open
            </a>
            <Action
              needs="operator"
              icon={group.paused ? "play" : "pause"}
              onClick={() =>
                setAsking({
                  title: `${group.paused ? "Resume" : "Pause"} ${line(name)}`,
                  effect: <p>{group.paused ? "It goes on handling where it stopped." : "It takes no more events until somebody resumes it. Nothing is lost: events wait."}</p>,
                  verb: group.paused ? "Resume" : "Pause",
                  request: { kind: group.paused ? "resume" : "pause", group: name },
                  reason: group.paused ? "optional" : "required",
                })
              }
            >
              {group.paused ? "Resume…" : "Pause…"}
            </Action>
          </div>
          {asking && <OperationSheet asking={asking} onClose={() => setAsking(null)} />}
        </>
      )}
    </Ready>
  );
}

function AboutEvent({ map, name }: { map: FlowMap; name: string }) {
  const contracts = useQuery<Contract[]>("/api/contracts", 30);
  const contract = contracts.data?.find((one) => one.name === name);
  const uses = usesOf(map, name);
  const recent = useQuery<EventPage>(`/api/events${parameters({ topic: contract?.topic ?? name, limit: 60 })}`, 3);
  return (
    <>
      {contract && <p class="dim">{line(contract.summary)}</p>}
      <Facts
        rows={[
          ["Contract", <a href={to("contracts", name)}>{line(name)}{contract ? ` v${contract.version}` : ""}</a>],
          ["Published by", uses.publishers.map((one) => line(one.name)).join(", ") || <span class="faint">nobody lately</span>],
          ["Handled by", <Chips names={uses.groups} />],
        ]}
      />
      {contract && (
        <ul class="small">
          {fields(contract.schema)
            .filter((field) => field.depth === 0)
            .map((field) => (
              <li key={field.name}>
                <Foreign text={field.name} mono /> <span class="faint">{line(field.type)}</span>
                {field.name === contract.key && <span class="tag">key</span>}
              </li>
            ))}
        </ul>
      )}
      <h3>The last ones</h3>
      <Ready query={recent} lines={4}>
        {(page) => {
          const mine = page.events.filter((event) => event.type === name).slice(0, 12);
          if (!mine.length) return <p class="faint">None lately.</p>;
          return (
            <ul class="recent">
              {mine.map((event) => (
                <li key={`${event.source} ${event.id}`}>
                  <a href={eventHref(event)}>
                    <Id id={event.key ?? event.id} most={24} />
                  </a>
                  <Time at={event.time} />
                </li>
              ))}
            </ul>
          );
        }}
      </Ready>
      <div class="row">
        <a class="button" href={`/publish${parameters({ type: name })}`}>
          Publish…
        </a>
        <a class="button" href={`/events${parameters({ topic: contract?.topic ?? null, q: `type:${name}` })}`}>
          All events
        </a>
      </div>
    </>
  );
}

function AboutService({ node, graph }: { node: Node; graph: Graph }) {
  const found = useQuery<Process[]>("/api/processes", 3);
  const out = graph.edges.filter((edge) => edge.from === node.id);
  return (
    <>
      <p class="dim">
        {node.kind === "producer" ? `What ${line(node.service ?? node.label)} publishes outside of handlers: ${rate(out.reduce((sum, edge) => sum + edge.edge.rate, 0))}.` : "All handlers of this service, together."}
      </p>
      {node.node.health && <Standing {...node.node.health} />}
      <Ready query={found} lines={3}>
        {(processes) => {
          const mine = processes.filter((process) => process.app === node.service && process.alive);
          return mine.length ? (
            <ul class="recent">
              {mine.map((process) => (
                <li key={process.process}>
                  <Id id={process.process} most={24} />
                  <span class="faint">pid {process.pid}</span>
                </li>
              ))}
            </ul>
          ) : (
            <p class="faint">None of its processes is alive.</p>
          );
        }}
      </Ready>
      <div class="row">
        <a class="button" href="/services">
          Services
        </a>
      </div>
    </>
  );
}

function AboutEdge({ edge, window }: { edge: Edge; window: number }) {
  const { edge: flow } = edge;
  const mean = meanOf(flow, window);
  const type = [edge.from, edge.to].find((id) => id.startsWith("event:"))?.slice("event:".length);
  const group = [edge.from, edge.to].find((id) => id.startsWith("group:"))?.slice("group:".length);
  const delivered = edge.to.startsWith("group:");
  return (
    <>
      <p>
        {flow.observed && !flow.declared ? (
          <State look={{ tone: "warn", glyph: "question", word: "Undeclared flow" }} />
        ) : flow.failed ? (
          <State look={{ tone: "error", glyph: "cross", word: `${count(flow.failed)} failed` }} />
        ) : flow.observed ? (
          <State look={{ tone: "ok", glyph: "dot", word: "Flowing" }} />
        ) : (
          <State look={{ tone: "neutral", glyph: "dash", word: "Silent" }} />
        )}{" "}
        <span class="dim">in the last {duration(window)}</span>
      </p>
      {flow.observed && !flow.declared && <p class="dim">It was seen to flow, and no code says that it does: a handler publishes what its annotation does not name.</p>}
      {!flow.observed && <p class="dim">The code declares it. Nothing flowed here in the time that the map looks at.</p>}
      <Facts
        rows={[
          ["Rate", rate(flow.rate)],
          delivered && ["Waited", mean ? `${duration(mean.waited)} on average` : "—"],
          delivered && ["Worked", mean ? `${duration(mean.worked)} on average` : "—"],
          delivered && ["Till handled", flow.p50 === null ? "—" : `${duration(flow.p50)} in the middle, ${duration(flow.p95)} at p95`],
          delivered && ["Failed", count(flow.failed)],
          delivered && ["Duplicates", `${count(flow.duplicates)} suppressed`],
        ]}
      />
      <div class="row">
        {type !== undefined && (
          <a class="button" href={`/events${parameters({ q: `type:${type}${group !== undefined && delivered ? ` group:${group}` : ""}` })}`}>
            Events
          </a>
        )}
        {group !== undefined && (
          <a class="button" href={to("groups", group)}>
            Group
          </a>
        )}
      </div>
    </>
  );
}
