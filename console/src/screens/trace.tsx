import { useEffect, useMemo, useState } from "preact/hooks";

import type { EventPage, Trace } from "../base/api";
import { clock, duration, exact, several } from "../base/format";
import { ofFate } from "../base/health";
import { line } from "../base/inert";
import { useQuery } from "../base/query";
import { go, param, query as parameters, to } from "../base/route";
import { type Bar, bars, groupOf, type Row, rows, type Scale, scaleOf } from "../base/story";
import { now } from "../base/time";
import { Glyph, State } from "../ui/glyph";
import { Cell, Head, Panel, Tabs } from "../ui/parts";
import { Blank, Ready } from "../ui/states";
import { Copy, Foreign, Id, InTerminal, Time } from "../ui/text";
import { attemptsWord } from "./fates";
import { eventHref } from "./events";
import { letterHref } from "./group";

/** Where a trace begins: any id or key. */
export function TracesScreen() {
  const found = useQuery<EventPage>("/api/events?limit=300", 3);
  return (
    <>
      <Head title="Traces" below="What an event has caused, and what it was caused by: by its id, its correlation, or a key such as an order number." />
      <form
        class="filterbar"
        role="search"
        onSubmit={(event) => {
          event.preventDefault();
          const what = new FormData(event.currentTarget).get("what")?.toString().trim();
          if (what) go(to("trace", what));
        }}
      >
        <input type="search" name="what" data-filter aria-label="Id, correlation or key" placeholder="An id, a correlation, or a key" autocomplete="off" spellcheck={false} />
        <button type="submit" class="button primary">
          Open
        </button>
      </form>
      <Panel title="What began lately" flush>
        <Ready query={found}>
          {(page) => {
            const first = page.events.filter((event) => event.causation === null).slice(0, 50);
            if (!first.length) return <Blank title="Nothing has begun lately" icon="trace" />;
            return (
              <div class="scroll">
                <table class="cards">
                  <thead>
                    <tr>
                      <th>Time</th>
                      <th>Event</th>
                      <th>Key</th>
                      <th>Published by</th>
                    </tr>
                  </thead>
                  <tbody>
                    {first.map((event) => (
                      <tr key={`${event.source} ${event.id}`} class="link" data-copy={event.id} data-trace={event.correlation}>
                        <td class="nowrap">
                          <Time at={event.time} exact />
                        </td>
                        <td>
                          <a class="row-link" href={to("trace", event.correlation)}>
                            <Foreign text={event.type} />
                          </a>
                        </td>
                        <Cell label="Key">{event.key === null ? <span class="faint">none</span> : <Id id={event.key} most={32} />}</Cell>
                        <Cell label="Published by">
                          <Foreign text={event.source} />
                        </Cell>
                      </tr>
                    ))}
                  </tbody>
                </table>
              </div>
            );
          }}
        </Ready>
      </Panel>
    </>
  );
}

type View = "waterfall" | "tree";

function isPending(trace: Trace): boolean {
  return trace.events.some((event) => event.deliveries.some((one) => ["waiting", "retrying", "queued"].includes(one.state)));
}

export function TraceScreen({ what }: { what: string }) {
  const [every, setEvery] = useState(2);
  const found = useQuery<Trace>(`/api/trace/${encodeURIComponent(what)}`, every);
  const pending = !found.data || isPending(found.data);
  useEffect(() => setEvery(pending ? 2 : 10), [pending]);
  if (found.error?.status === 404 && !found.data) {
    return (
      <>
        <Head title="Trace" crumbs={[["Traces", "/trace"]]} />
        <Panel flush>
          <Blank title="Nothing is known by this name" icon="search">
            <p>
              No event, correlation or key is <bdi class="mono">{line(what)}</bdi>. An event that was published a moment ago is here as soon as a service has told of it.
            </p>
          </Blank>
        </Panel>
      </>
    );
  }
  return (
    <Ready query={found} lines={10}>
      {(trace) => <Page trace={trace} what={what} />}
    </Ready>
  );
}

function Page({ trace, what }: { trace: Trace; what: string }) {
  const view = (param("view") ?? "waterfall") as View;
  const told = useMemo(() => rows(trace), [trace]);
  const first = trace.events[0];
  const end = isPending(trace)
    ? now.value
    : Math.max(...trace.events.map((event) => event.time), ...trace.events.flatMap((event) => event.deliveries.flatMap((one) => one.attempts.map((attempt) => attempt.at))));
  return (
    <>
      <Head
        title={
          <>
            <Foreign text={first?.type} /> <span class="faint">{first?.key && <Foreign text={first.key} most={40} />}</span>
          </>
        }
        crumbs={[["Traces", "/trace"]]}
        below={line(trace.sentence)}
      >
        <a class="button" href={`/map${parameters({ corr: trace.correlation })}`}>
          On the map
        </a>
        <Copy text={() => JSON.stringify(trace, null, 2)} label="Copy the trace as JSON" words="Copy as JSON" />
      </Head>
      {trace.cut && (
        <p class="callout tone-warn">
          <Glyph name="up" />
          <span>Only the first {exact(trace.events.length)} events of this correlation are shown.</span>
        </p>
      )}
      <Tabs
        label="How the story is told"
        value={view}
        options={[
          ["waterfall", "Waterfall"],
          ["tree", "Cause and effect"],
        ]}
        name="view"
      />
      {view === "tree" ? <CauseTree told={told} what={what} /> : <Waterfall told={told} start={first?.time ?? 0} end={end} what={what} />}
      <div class="row">
        <span class="small faint">Correlation</span> <Id id={trace.correlation} most={80} copy />
      </div>
      <InTerminal words={["trace", what]} />
    </>
  );
}

const MOST = 400;

function Waterfall({ told, start, end, what }: { told: Row[]; start: number; end: number; what: string }) {
  const [most, setMost] = useState(MOST);
  const all = told.map((row) => (row.kind === "delivery" ? bars(row.event, row.delivery, end) : []));
  const moments: [number, number][] = told.flatMap((row, index): [number, number][] =>
    row.kind === "event" ? [[row.event.time, row.event.time]] : (all[index] as Bar[]).filter((bar) => bar.kind === "work").map((bar) => [bar.start, bar.end]),
  );
  const from = Math.min(start, ...moments.map(([at]) => at));
  const skewed = told.some((row) => row.kind === "event" && row.event.causation !== null && row.event.time < start);
  const scale = scaleOf(from, Math.max(end, from + 0.001), moments);
  return (
    <Panel flush>
      {skewed && (
        <p class="callout tone-warn" style={{ margin: "12px 16px" }}>
          <Glyph name="question" />
          <span>An effect is older than its cause: the clocks of two machines differ.</span>
        </p>
      )}
      <Ruler scale={scale} />
      <ol class="waterfall">
        {told.slice(0, most).map((row, index) => (
          <li key={row.id} class={row.kind} aria-current={row.kind === "event" && (row.event.id === what || row.event.key === what) ? "true" : undefined}>
            <div class="label" style={{ paddingLeft: `${Math.min(row.depth, 12) * 12}px` }}>
              {row.kind === "event" ? <EventLabel row={row} /> : <DeliveryLabel row={row} />}
            </div>
            <div class="lane">
              <Folds scale={scale} />
              {row.kind === "event" ? (
                <Moment at={scale.place(row.event.time)} title={`${line(row.event.type)} at ${clock(row.event.time)}`} />
              ) : (
                <Bars scale={scale} bars={all[index] as Bar[]} />
              )}
            </div>
            <div class="took">{row.kind === "delivery" ? tookOf(all[index] as Bar[]) : ""}</div>
          </li>
        ))}
      </ol>
      {told.length > most && (
        <div class="scanbar">
          <button type="button" class="button tiny" onClick={() => setMost(most + MOST)}>
            Draw more of {several(told.length, "row")}
          </button>
        </div>
      )}
      <div class="scanbar waterfall-key" aria-hidden="true">
        <span>
          <i class="bar wait" /> waited in the topic
        </span>
        <span>
          <i class="bar work" /> handler ran
        </span>
        <span>
          <i class="bar work failed" /> failed
        </span>
        <span>
          <i class="bar pause" /> waited to be tried again
        </span>
      </div>
    </Panel>
  );
}

function tookOf(all: Bar[]): string {
  const sum = (kind: Bar["kind"]) => all.filter((bar) => bar.kind === kind).reduce((total, bar) => total + bar.end - bar.start, 0);
  const waited = sum("wait") + sum("pause");
  return all.some((bar) => bar.kind === "work") ? `${duration(waited)} + ${duration(sum("work"))}` : duration(waited);
}

function Ruler({ scale }: { scale: Scale }) {
  const whole = scale.end - scale.start;
  const marks = scale.folds.length ? [0, 1] : [0, 0.25, 0.5, 0.75, 1];
  return (
    <div class="waterfall-ruler" aria-hidden="true">
      <div class="label">
        <Time at={scale.start} exact />
      </div>
      <div class="lane">
        {marks.map((at) => (
          <span key={at} style={{ left: `${at * 100}%` }} class={at === 1 ? "last" : at === 0 ? "first" : at === 0.5 ? "" : "quarter"}>
            {at === 0 ? "0" : `+${duration(whole * at)}`}
          </span>
        ))}
        {scale.folds.map((fold) => (
          <span key={fold.at} class="fold" style={{ left: `${fold.at * 100}%` }}>
            {duration(fold.end - fold.start)} idle
          </span>
        ))}
      </div>
      <div class="took">wait + work</div>
    </div>
  );
}

function Folds({ scale }: { scale: Scale }) {
  return (
    <>
      {scale.folds.map((fold) => (
        <i key={fold.at} class="fold" style={{ left: `${fold.at * 100}%` }} />
      ))}
    </>
  );
}

function Moment({ at, title }: { at: number; title: string }) {
  return <i class="moment" style={{ left: `${at * 100}%` }} title={title} />;
}

function Bars({ scale, bars: all }: { scale: Scale; bars: Bar[] }) {
  return (
    <>
      {all.map((bar, index) => {
        const left = scale.place(bar.start);
        const words = bar.kind === "work" ? (bar.failed ? `attempt ${bar.attempt} failed after` : `attempt ${bar.attempt} worked for`) : bar.kind === "wait" ? "waited for" : "tried again after";
        return (
          <i
            key={index}
            class={`bar ${bar.kind} ${bar.failed ? "failed" : ""}`}
            title={`${words} ${duration(bar.end - bar.start)}`}
            style={{ left: `${left * 100}%`, width: `${Math.max(0, scale.place(bar.end) - left) * 100}%` }}
          />
        );
      })}
    </>
  );
}

function EventLabel({ row }: { row: Extract<Row, { kind: "event" }> }) {
  return (
    <>
      {row.orphan && (
        <span class="small faint" title="Its cause is not kept any more, or was never told of">
          ⋯{" "}
        </span>
      )}
      <a href={eventHref(row.event)}>
        <Foreign text={row.event.type} />
      </a>{" "}
      <span class="small faint">
        <Foreign text={row.event.key ?? row.event.id} most={18} />
      </span>
    </>
  );
}

function DeliveryLabel({ row }: { row: Extract<Row, { kind: "delivery" }> }) {
  const look = ofFate(row.delivery.state);
  const extra = [
    row.delivery.attempts.filter((attempt) => attempt.kind === "retry" || attempt.kind === "parked").length,
    row.delivery.duplicates,
  ] as const;
  const parked = row.delivery.state === "dead" || row.delivery.state === "queued" || row.delivery.state === "retrying";
  return (
    <>
      <span class={`tone-${look.tone}`} style={{ color: "var(--tone)" }}>
        <Glyph name={look.glyph} title={look.word} />
      </span>{" "}
      <a
        class="quiet"
        href={parked ? letterHref({ group: row.delivery.group, source: row.event.source, id: row.event.id }) : to("groups", row.delivery.group)}
      >
        <Foreign text={row.delivery.group} />
      </a>
      <span class="small faint">
        {look.tone !== "ok" && ` ${look.word.toLowerCase()}`}
        {extra[0] > 0 && `, failed ${extra[0]} ×`}
        {extra[1] > 0 && `, ${extra[1]} × duplicate`}
      </span>
    </>
  );
}

/** The same as an indented tree, with the words of each attempt. */
function CauseTree({ told, what }: { told: Row[]; what: string }) {
  const [most, setMost] = useState(MOST);
  return (
    <Panel flush>
      <ul class="cause">
        {told.slice(0, most).map((row) => (
          <li key={row.id} style={{ "--depth": String(Math.min(row.depth, 14)) }} class={row.kind}>
            {row.kind === "event" ? (
              <div aria-current={row.event.id === what || row.event.key === what ? "true" : undefined}>
                {row.orphan && <div class="small faint stub">Its cause {row.event.causation} is not kept any more, or was never told of.</div>}
                <EventLabel row={row} />{" "}
                <span class="small faint">
                  <Time at={row.event.time} exact />
                  {groupOf(row.event) === null && ` published by ${line(row.event.source)}`}
                </span>
              </div>
            ) : (
              <div>
                <State look={ofFate(row.delivery.state)} />{" "}
                <a class="quiet" href={to("groups", row.delivery.group)}>
                  <Foreign text={row.delivery.group} />
                </a>{" "}
                <span class="small faint">{attemptsWord(row.delivery)}</span>
                <ul class="attempts small">
                  {row.delivery.attempts.map((attempt, index) => {
                    const look = ofFate(attempt.kind);
                    return (
                      <li key={index} class={`tone-${look.tone}`}>
                        <span style={{ color: "var(--tone)" }}>
                          <Glyph name={look.glyph} size={10} />
                        </span>{" "}
                        {attempt.kind === "duplicate" ? (
                          "suppressed: handled before"
                        ) : (
                          <>
                            attempt {attempt.attempt}: {look.word.toLowerCase()}, waited {duration(attempt.waited)}, worked {duration(attempt.worked)}
                          </>
                        )}
                        {attempt.error && (
                          <>
                            {" "}
                            <Foreign text={attempt.error} mono />
                          </>
                        )}
                      </li>
                    );
                  })}
                  {row.delivery.state === "waiting" && <li class="faint">has not come to it yet, for {duration(Math.max(0, now.value - row.event.time))}</li>}
                </ul>
              </div>
            )}
          </li>
        ))}
      </ul>
      {told.length > most && (
        <div class="scanbar">
          <button type="button" class="button tiny" onClick={() => setMost(most + MOST)}>
            Draw more of {several(told.length, "row")}
          </button>
        </div>
      )}
    </Panel>
  );
}
