import { useState } from "preact/hooks";

import type { DeadGroup, EventDetail, Operation, Parked } from "../base/api";
import { count, exact, several } from "../base/format";
import { ofFate, ofOperation } from "../base/health";
import { line } from "../base/inert";
import { useQuery } from "../base/query";
import { param, query as parameters, setParams, to } from "../base/route";
import { save } from "../base/save";
import { useSelection } from "../base/selection";
import { Cut } from "../ui/cut";
import { Glyph, State } from "../ui/glyph";
import { type Asking, OperationSheet } from "../ui/operate";
import { Action, Cell, Facts, Head, Panel, SearchField } from "../ui/parts";
import { Blank, Ready } from "../ui/states";
import { Foreign, Id, InTerminal, Time } from "../ui/text";
import { letterHref } from "./group";

export function DeadScreen() {
  const found = useQuery<DeadGroup[]>("/api/dead", 2);
  const filter = param("q") ?? "";
  return (
    <>
      <Head title="Dead letters" below="Deliveries whose attempts are used up, by what they have in common. Later events of their key wait behind them." />
      <div class="filterbar">
        <SearchField name="q" label="Filter dead letters" placeholder="group, type or error" value={filter} />
      </div>
      <Panel flush>
        <Ready query={found}>
          {(all) => {
            if (!all.length) {
              return (
                <Blank title="No dead letters" icon="done">
                  What a handler cannot handle after its last attempt is kept here with its bytes, until it is repaired, tried again or discarded.
                </Blank>
              );
            }
            const shown = all.filter((one) => [one.group, one.type, one.error, one.reason, one.fingerprint].some((text) => text.toLowerCase().includes(filter.toLowerCase())));
            if (!shown.length) {
              return (
                <Blank title={`None of ${several(all.length, "kind")} of dead letters fits “${line(filter)}”`}>
                  <button type="button" class="button" onClick={() => setParams({ q: null })}>
                    Clear the filter
                  </button>
                </Blank>
              );
            }
            return (
              <Cut list={shown}>
                {(drawn) => (
                  <div class="scroll">
                    <table class="cards">
                      <caption class="sr">Dead letters by fingerprint, those seen last first</caption>
                      <thead>
                        <tr>
                          <th class="num">Letters</th>
                          <th>Error</th>
                          <th>Group</th>
                          <th>Type</th>
                          <th class="num">Keys</th>
                          <th>First</th>
                          <th>Last</th>
                        </tr>
                      </thead>
                      <tbody>
                        {drawn.map((one) => (
                          <tr key={one.fingerprint} class="link" data-copy={one.fingerprint}>
                            <Cell label="Letters" num>
                              <span class="tone-error state">
                                <Glyph name="cross" />
                                {count(one.count)}
                              </span>
                            </Cell>
                            <td class="full">
                              <a class="row-link" href={to("dead", one.fingerprint)}>
                                <Foreign text={one.error || "gave up"} />
                              </a>
                              <div class="small dim">
                                <Foreign text={one.reason.slice(0, 240)} />
                              </div>
                            </td>
                            <Cell label="Group">
                              <a href={to("groups", one.group)}>
                                <Foreign text={one.group} />
                              </a>
                            </Cell>
                            <Cell label="Type">
                              <Foreign text={one.type} />
                            </Cell>
                            <Cell label="Keys" num>
                              {count(one.keys)}
                            </Cell>
                            <Cell label="First">
                              <Time at={one.first} />
                            </Cell>
                            <Cell label="Last">
                              <Time at={one.last} />
                            </Cell>
                          </tr>
                        ))}
                      </tbody>
                    </table>
                  </div>
                )}
              </Cut>
            );
          }}
        </Ready>
      </Panel>
      <InTerminal words={["dlq", "list"]} />
    </>
  );
}

const keyOf = (one: Parked) => `${one.source} ${one.id}`;
/** What the server lists of one fingerprint. */
const MOST = 200;

export function DeadGroupScreen({ fingerprint }: { fingerprint: string }) {
  const found = useQuery<Parked[]>(`/api/dead/${encodeURIComponent(fingerprint)}`, 2);
  return (
    <Ready query={found} lines={8}>
      {(letters) => (letters.length ? <Letters letters={letters} /> : <Gone fingerprint={fingerprint} />)}
    </Ready>
  );
}

function Gone({ fingerprint }: { fingerprint: string }) {
  const canary = param("canary");
  return (
    <>
      <Head title="Dead letters" crumbs={[["Dead letters", "/dead"]]} />
      <Panel flush>
        <Blank title="None of these is left" icon="done">
          <p>
            No dead letter has the fingerprint <bdi class="mono">{line(fingerprint)}</bdi> any more: they were handled or discarded.{" "}
            {canary ? "The canary was the only one. " : ""}
            <a href="/operations">What operators did</a>
          </p>
        </Blank>
      </Panel>
    </>
  );
}

function Letters({ letters }: { letters: Parked[] }) {
  const [asking, setAsking] = useState<Asking | null>(null);
  const chosen = useSelection(letters.map(keyOf));
  const operations = useQuery<Operation[]>("/api/operations", 3);
  const first = letters[0] as Parked;
  const meant = chosen.count ? letters.filter((one) => chosen.has(keyOf(one))) : letters;
  const events = meant.map((one): [string, string] => [one.source, one.id]);
  const keys = new Set(letters.map((one) => one.key)).size;
  const oldest = [...letters].sort((a, b) => a.time - b.time)[0] as Parked;
  const words = chosen.count ? `${count(chosen.count)} selected` : letters.length >= MOST ? `these ${MOST}` : `all ${count(letters.length)}`;
  const waiting = operations.data?.filter(
    (one) => (one.status === "sent" || one.status === "accepted") && one.group === first.group && one.events.some(([, id]) => letters.some((letter) => letter.id === id)),
  );

  const redrive = (): Asking => ({
    title: `Redrive ${several(meant.length, "dead letter")}`,
    effect: <RedriveEffect meant={meant} group={first.group} />,
    verb: "Redrive",
    request: { kind: "redrive", group: first.group, events },
    reason: "optional",
    done: () => chosen.all(false),
  });
  const discard = (): Asking => ({
    title: `Discard ${several(meant.length, "dead letter")}`,
    effect: (
      <p>
        {several(meant.length, "event")} will never be handled by <Foreign text={first.group} />. Later events of the same {meant.length === 1 ? "key" : "keys"} go on. They can be
        restored for a week.
      </p>
    ),
    verb: "Discard",
    request: { kind: "discard", group: first.group, events },
    reason: "required",
    danger: true,
    done: () => chosen.all(false),
  });
  const canary = (): Asking => ({
    title: "Redrive one, as a canary",
    effect: (
      <p>
        The oldest, <Foreign text={oldest.key ?? oldest.id} mono most={40} />, is handled once more. When that went well, the others can follow with one click.
      </p>
    ),
    verb: "Redrive one",
    request: { kind: "redrive", group: first.group, events: [[oldest.source, oldest.id]] },
    reason: "optional",
    done: () => setParams({ canary: oldest.id, from: oldest.source, since: String(Date.now() / 1000) }),
  });

  return (
    <>
      <Head title={<Foreign text={first.error || "Gave up"} />} crumbs={[["Dead letters", "/dead"]]} below={<Foreign text={first.reason.slice(0, 400)} />}>
        <Action needs="operator" kind="primary" onClick={() => setAsking(redrive())}>
          Redrive {words}…
        </Action>
        {letters.length > 1 && (
          <Action needs="operator" onClick={() => setAsking(canary())}>
            Canary first…
          </Action>
        )}
        <Action needs="operator" kind="danger" onClick={() => setAsking(discard())}>
          Discard {words}…
        </Action>
        <button type="button" class="button" onClick={() => save(`dead-${first.fingerprint}.jsonl`, meant.map((one) => JSON.stringify(one)).join("\n") + "\n", "application/jsonl")}>
          Export
        </button>
      </Head>
      <Canary group={first.group} letters={letters} onGo={(rest) => setAsking(rest)} />
      {waiting?.map((one) => (
        <p key={one.id} class="callout tone-progress" role="status">
          <Glyph name={ofOperation(one.status).glyph} />
          <span>
            {one.kind} of {several(one.events.length, "letter")}: {ofOperation(one.status).word.toLowerCase()}. {line(one.detail)}
          </span>
        </p>
      ))}
      <Panel>
        <Facts
          rows={[
            ["Letters", letters.length >= MOST ? `${exact(letters.length)} or more; the newest are shown` : exact(letters.length)],
            ["Keys", exact(keys)],
            ["Group", <a href={to("groups", first.group)}>{line(first.group)}</a>],
            ["Type", <a href={to("contracts", first.type)}>{line(first.type)}</a>],
            ["In common", <Common letters={letters} />],
          ]}
        />
      </Panel>
      <Panel flush>
        <div class="scroll">
          <table class="cards">
            <caption class="sr">Dead letters with this fingerprint</caption>
            <thead>
              <tr>
                <th>
                  <label class="check">
                    <span class="sr">Select all</span>
                    <input type="checkbox" checked={chosen.count === letters.length} onChange={(event) => chosen.all(event.currentTarget.checked)} />
                  </label>
                </th>
                <th>Key</th>
                <th>Event</th>
                <th class="num">Attempts</th>
                <th>Published</th>
                <th>Last failure</th>
                <th>Reason</th>
              </tr>
            </thead>
            <tbody>
              {letters.map((one) => (
                <tr key={keyOf(one)} class="link" data-copy={one.id} data-trace={one.id} aria-selected={chosen.has(keyOf(one)) ? "true" : undefined}>
                  <td>
                    <label class="check">
                      <span class="sr">Select {line(one.key ?? one.id)}</span>
                      <input type="checkbox" checked={chosen.has(keyOf(one))} onChange={() => chosen.toggle(keyOf(one))} />
                    </label>
                  </td>
                  <td>
                    <a class="row-link" href={letterHref(one)}>
                      <Foreign text={one.key ?? one.id} mono most={28} />
                    </a>
                  </td>
                  <Cell label="Event">
                    <a href={to("trace", one.id)} title="Its trace">
                      <Id id={one.id} most={16} />
                    </a>
                  </Cell>
                  <Cell label="Attempts" num>
                    {count(one.attempts)}
                  </Cell>
                  <Cell label="Published">
                    <Time at={one.time} />
                  </Cell>
                  <Cell label="Last failure">
                    <Time at={one.last} />
                  </Cell>
                  <Cell label="Reason" full>
                    <Foreign text={one.reason.slice(0, 200)} />
                  </Cell>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      </Panel>
      {asking && <OperationSheet asking={asking} onClose={() => setAsking(null)} />}
    </>
  );
}

export function RedriveEffect({ meant, group }: { meant: Parked[]; group: string }) {
  const before = meant.filter((one) => one.attempts > 0).length;
  return (
    <>
      <p>
        {several(meant.length, "event")} {meant.length === 1 ? "is" : "are"} delivered to <Foreign text={group} /> again, from the first attempt, in the order of {meant.length === 1 ? "its key" : "their keys"}.
      </p>
      <p class="dim small" style={{ marginTop: "8px" }}>
        {before ? `${several(before, "of them has", "of them have")} been tried before: what a failed attempt did outside of its transaction is done again.` : "The handler has not run for any of them yet."} Which fail again become
        dead letters again.
      </p>
    </>
  );
}

/** Facts that hold for every one of the letters. */
function Common({ letters }: { letters: Parked[] }) {
  const same = (of: (one: Parked) => string) => (new Set(letters.map(of)).size === 1 ? of(letters[0] as Parked) : null);
  const source = same((one) => one.source);
  const handler = same((one) => one.handler);
  const first = Math.min(...letters.map((one) => one.first ?? Infinity));
  const last = Math.max(...letters.map((one) => one.last ?? 0));
  return (
    <>
      {source && (
        <div>
          all were published by <Foreign text={source} mono />
        </div>
      )}
      {handler && (
        <div>
          all were for the handler <Foreign text={handler} mono />
        </div>
      )}
      {Number.isFinite(first) && (
        <div>
          failed first <Time at={first} />, last <Time at={last} />
        </div>
      )}
    </>
  );
}

/** What became of the one that was redriven first; the URL remembers it, so that a reload does not lose it. */
function Canary({ group, letters, onGo }: { group: string; letters: Parked[]; onGo: (asking: Asking) => void }) {
  const id = param("canary");
  const source = param("from");
  const since = Number(param("since") ?? 0);
  const event = useQuery<EventDetail>(id === null ? null : `/api/event/${encodeURIComponent(id)}${parameters({ source })}`, 1);
  if (id === null) return null;
  const tried = event.data?.deliveries.find((delivery) => delivery.group === group)?.attempts.filter((attempt) => attempt.at >= since - 1);
  const last = tried?.at(-1);
  const rest = letters.filter((one) => one.id !== id);
  const forget = () => setParams({ canary: null, from: null, since: null });
  const look = last ? ofFate(last.kind) : { tone: "progress", glyph: "ring", word: "Waiting to be handled" } as const;
  return (
    <div class={`callout tone-${look.tone}`} role="status">
      <Glyph name={look.glyph} />
      <div>
        <p>
          Canary <Foreign text={id} mono most={20} />: <State look={look} />
        </p>
        {last?.error && (
          <p>
            <Foreign text={last.error} mono />
          </p>
        )}
      </div>
      <div class="row">
        {last?.kind === "handled" && rest.length > 0 && (
          <Action
            needs="operator"
            kind="primary"
            onClick={() =>
              onGo({
                title: `Redrive the other ${exact(rest.length)}`,
                effect: <RedriveEffect meant={rest} group={group} />,
                verb: "Redrive",
                request: { kind: "redrive", group, events: rest.map((one): [string, string] => [one.source, one.id]) },
                reason: "optional",
                done: forget,
              })
            }
          >
            Redrive the other {exact(rest.length)}…
          </Action>
        )}
        <button type="button" class="button" onClick={forget}>
          Dismiss
        </button>
      </div>
    </div>
  );
}
