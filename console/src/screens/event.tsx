import { useEffect, useState } from "preact/hooks";

import type { Delivery, EventDetail, Fate } from "../base/api";
import { duration, exact } from "../base/format";
import { ofFate } from "../base/health";
import { line } from "../base/inert";
import { useQuery } from "../base/query";
import { param, query as parameters, to } from "../base/route";
import { kept, textOfBody } from "../base/body";
import { State } from "../ui/glyph";
import { Payload } from "../ui/payload";
import { Cell, Facts, Head, Panel } from "../ui/parts";
import { Blank, Ready } from "../ui/states";
import { Copy, Foreign, Id, InTerminal, Time } from "../ui/text";
import { attemptsWord } from "./fates";
import { letterHref } from "./group";

/** Fates after which nothing more is to be expected. */
const OVER = new Set<Fate>(["handled", "duplicate", "discarded", "skipped", "passed"]);

export function EventScreen({ id }: { id: string }) {
  const source = param("source");
  // A body may be large, and does not change: once everything is over nobody asks again.
  const [every, setEvery] = useState(3);
  const found = useQuery<EventDetail>(`/api/event/${encodeURIComponent(id)}${parameters({ source })}`, every);
  const settled = found.data !== undefined && found.data.payload !== null && found.data.deliveries.length > 0 && found.data.deliveries.every((one) => OVER.has(one.state));
  useEffect(() => setEvery(settled ? 0 : 3), [settled]);
  return (
    <Ready query={found} lines={10}>
      {(event) => <Page event={event} />}
    </Ready>
  );
}

function Page({ event }: { event: EventDetail }) {
  const text = event.payload && kept(event.payload) === event.payload.size ? textOfBody(event.payload) : null;
  return (
    <>
      <Head
        title={
          <>
            <Foreign text={event.type} /> <span class="faint">{event.key !== null && <Foreign text={event.key} most={40} />}</span>
          </>
        }
        crumbs={[["Events", "/events"]]}
        below={<Id id={event.id} most={80} copy />}
      >
        <a class="button primary" href={to("trace", event.correlation)}>
          Trace
        </a>
        <a class="button" href={`/map${parameters({ corr: event.correlation })}`}>
          On the map
        </a>
        <a class="button" href={`/publish${parameters({ type: event.type, copy: event.id, source: event.source })}`}>
          Publish a copy…
        </a>
        {text !== null && <Copy text={text} label="Copy the body as it came" words="Copy the body" />}
      </Head>
      <Panel title="What became of it" flush>
        {event.deliveries.length ? <FateTable event={event} /> : <Blank title="No group handles it">No running code declares a handler for this type.</Blank>}
      </Panel>
      <div class="columns">
        <Panel title="Data">
          {event.payload ? (
            <Payload body={event.payload} raw={`/api/raw/${encodeURIComponent(event.id)}${parameters({ source: event.source })}`} />
          ) : (
            <p class="dim">The broker does not have its body any more: only what was told of it is kept here. Its position may not be known yet, either.</p>
          )}
        </Panel>
        <Panel title="Envelope">
          <Facts
            rows={[
              ["Type", <a href={to("contracts", event.type)}>{line(event.type)}</a>],
              ["Version", exact(event.version)],
              ["Key", <Foreign text={event.key} mono />],
              ["Id", <Foreign text={event.id} mono />],
              ["Source", <Foreign text={event.source} mono />],
              ["Published", <Time at={event.time} />],
              ["Published by", <Foreign text={event.by ?? event.source} mono />],
              ["Topic", <a href={to("topics", event.topic)}>{line(event.topic)}</a>],
              ["Partition", event.partition === null ? <span class="faint">not known yet</span> : exact(event.partition)],
              ["Position", event.position === null ? <span class="faint">not known yet</span> : exact(event.position)],
              ["Correlation", <a href={to("trace", event.correlation)}><Id id={event.correlation} most={44} /></a>],
              ["Caused by", event.causation === null ? <span class="faint">nothing: it is the first</span> : <a href={to("events", event.causation)}><Id id={event.causation} most={44} /></a>],
              event.envelope ? (["Content type", <Foreign text={event.envelope.content_type} mono />] as const) : null,
              event.envelope?.schema ? (["Schema", <Foreign text={event.envelope.schema} mono />] as const) : null,
              event.envelope?.traceparent ? (["traceparent", <Foreign text={event.envelope.traceparent} mono />] as const) : null,
              event.envelope?.extensions && Object.keys(event.envelope.extensions).length
                ? (["Extensions", <Foreign text={JSON.stringify(event.envelope.extensions)} mono />] as const)
                : null,
            ]}
          />
        </Panel>
      </div>
      <InTerminal words={["trace", event.id]} />
    </>
  );
}

function FateTable({ event }: { event: EventDetail }) {
  return (
    <div class="scroll">
      <table class="cards">
        <caption class="sr">Each group, and what it did with this event</caption>
        <thead>
          <tr>
            <th>State</th>
            <th>Group</th>
            <th>Attempts</th>
            <th class="num">Waited</th>
            <th class="num">Worked</th>
            <th>When</th>
            <th>Error</th>
          </tr>
        </thead>
        <tbody>
          {event.deliveries.map((delivery) => (
            <FateRow key={delivery.group} event={event} delivery={delivery} />
          ))}
        </tbody>
      </table>
    </div>
  );
}

function FateRow({ event, delivery }: { event: EventDetail; delivery: Delivery }) {
  const [open, setOpen] = useState(false);
  const last = delivery.attempts.at(-1);
  const parked = delivery.state === "dead" || delivery.state === "retrying" || delivery.state === "queued";
  const error = [...delivery.attempts].reverse().find((attempt) => attempt.error)?.error;
  return (
    <>
      <tr class="link">
        <td class="nowrap full">
          <State look={ofFate(delivery.state)} />
          {delivery.duplicates > 0 && <div class="small faint">{delivery.duplicates} × duplicate suppressed</div>}
        </td>
        <Cell label="Group">
          <a class="row-link" href={to("groups", delivery.group)}>
            <Foreign text={delivery.group} />
          </a>
        </Cell>
        <Cell label="Attempts">
          {delivery.attempts.length > 1 ? (
            <button type="button" class="button plain tiny" aria-expanded={open ? "true" : "false"} onClick={() => setOpen(!open)}>
              {attemptsWord(delivery)} {open ? "▾" : "▸"}
            </button>
          ) : (
            attemptsWord(delivery)
          )}
        </Cell>
        <Cell label="Waited" num>
          {last ? duration(last.waited) : "—"}
        </Cell>
        <Cell label="Worked" num>
          {last ? duration(last.worked) : "—"}
        </Cell>
        <Cell label="When">
          <Time at={last?.at} />
        </Cell>
        <Cell label="Error" full>
          {error ? <Foreign text={error} /> : null}
          {parked && (
            <div>
              <a href={letterHref({ group: delivery.group, source: event.source, id: event.id })}>Look into it</a>
            </div>
          )}
        </Cell>
      </tr>
      {open &&
        delivery.attempts.map((attempt, index) => (
          <tr key={index}>
            <td class="nowrap" style={{ paddingLeft: "32px" }}>
              <State look={ofFate(attempt.kind)} />
            </td>
            <Cell label="Process">
              <Id id={attempt.process} most={24} />
            </Cell>
            <Cell label="Attempt">{exact(attempt.attempt)}</Cell>
            <Cell label="Waited" num>
              {duration(attempt.waited)}
            </Cell>
            <Cell label="Worked" num>
              {duration(attempt.worked)}
            </Cell>
            <Cell label="When">
              <Time at={attempt.at} exact />
            </Cell>
            <Cell label="Error" full>
              {attempt.error ? <Foreign text={attempt.error} /> : null}
            </Cell>
          </tr>
        ))}
    </>
  );
}
