import { useState } from "preact/hooks";

import type { Letter, Operation } from "../base/api";
import { asTest } from "../base/as_test";
import { bytesOf } from "../base/body";
import { clock, count, duration, exact, several } from "../base/format";
import { ofFate, ofOperation } from "../base/health";
import { line, visible } from "../base/inert";
import { useQuery } from "../base/query";
import { param, query as parameters, setParams, to } from "../base/route";
import { now } from "../base/time";
import { Glyph, State } from "../ui/glyph";
import { type Asking, OperationSheet } from "../ui/operate";
import { Action, Facts, Head, Panel } from "../ui/parts";
import { Payload } from "../ui/payload";
import { Blank, Ready } from "../ui/states";
import { Copy, Foreign, ForeignBlock, Id, Time } from "../ui/text";
import { RedriveEffect } from "./dead";
import { RepairEditor } from "./repair";

/** One delivery that is parked: dead, or waiting for its next attempt, or behind another. */
export function LetterScreen() {
  const [group, source, id] = [param("group") ?? "", param("source") ?? "", param("id") ?? ""];
  const found = useQuery<Letter>(`/api/letter${parameters({ group, source, id })}`, 2);
  if (found.error?.status === 404) return <Gone group={group} source={source} id={id} />;
  return (
    <Ready query={found} lines={10}>
      {(letter) => <Page letter={letter} />}
    </Ready>
  );
}

function Gone({ group, source, id }: { group: string; source: string; id: string }) {
  return (
    <>
      <Head title={<Foreign text={id} mono most={48} />} crumbs={[["Dead letters", "/dead"]]} />
      <Pending id={id} />
      <Panel flush>
        <Blank title="This delivery is not parked any more" icon="done">
          <p>
            <Foreign text={group} /> has handled it, or somebody discarded it. <a href={to("trace", id)}>Its trace</a>, <a href={to("events", id) + parameters({ source })}>the event</a>,{" "}
            <a href={`/operations?q=${encodeURIComponent(group)}`}>what operators did</a>
          </p>
        </Blank>
      </Panel>
    </>
  );
}

function Page({ letter }: { letter: Letter }) {
  const [asking, setAsking] = useState<Asking | null>(null);
  const operations = useQuery<Operation[]>("/api/operations", 2);
  const events: [string, string][] = [[letter.source, letter.id]];
  const repairing = param("do") === "repair";
  const running = operations.data?.find((one) => (one.status === "sent" || one.status === "accepted") && one.events.some(([, id]) => id === letter.id));
  const discarded = letter.state === "discarded";
  const blocked = discarded ? "It was discarded: restore it first." : letter.state !== "dead" ? "It is not a dead letter: it is handled again by itself." : running ? `A ${running.kind} is under way.` : null;
  const cut = letter.size > letter.data.size;
  return (
    <>
      <Head
        title={
          <>
            <Foreign text={letter.type} /> <span class="faint">{letter.key !== null && <Foreign text={letter.key} most={40} />}</span>
          </>
        }
        crumbs={[
          ["Dead letters", "/dead"],
          [line(letter.error || "alike"), to("dead", letter.fingerprint)],
        ]}
        below={
          <>
            <State look={ofFate(letter.state)} /> <span class="dim">in</span> <a href={to("groups", letter.group)}>{line(letter.group)}</a>
          </>
        }
      >
        <Action needs="operator" kind="primary" icon="edit" blocked={blocked ?? (cut ? "Only the beginning of its body is kept here." : null)} onClick={() => setParams({ do: "repair" }, false)}>
          Repair…
        </Action>
        <Action
          needs="operator"
          blocked={blocked}
          onClick={() =>
            setAsking({
              title: "Redrive this dead letter",
              effect: <RedriveEffect meant={[letter]} group={letter.group} />,
              verb: "Redrive",
              request: { kind: "redrive", group: letter.group, events },
              reason: "optional",
            })
          }
        >
          Redrive…
        </Action>
        {discarded && (
          <Action
            needs="operator"
            icon="undo"
            blocked={running ? `A ${running.kind} is under way.` : null}
            onClick={() =>
              setAsking({
                title: "Restore what was discarded",
                effect: (
                  <p>
                    It becomes a dead letter of <Foreign text={letter.group} /> again, to be redriven or repaired.
                  </p>
                ),
                verb: "Restore",
                request: { kind: "restore", group: letter.group, events },
                reason: "optional",
              })
            }
          >
            Restore…
          </Action>
        )}
        <Action
          needs="operator"
          kind="danger"
          blocked={blocked}
          onClick={() =>
            setAsking({
              title: "Discard this dead letter",
              effect: (
                <p>
                  <Foreign text={letter.group} /> will never handle this event.{" "}
                  {letter.blocked ? `${several(letter.blocked, "later event")} of its key ${letter.blocked === 1 ? "waits" : "wait"} behind it and will go on.` : "Nothing waits behind it."} It can be
                  restored for a week.
                </p>
              ),
              verb: "Discard",
              request: { kind: "discard", group: letter.group, events },
              reason: "required",
              danger: true,
            })
          }
        >
          Discard…
        </Action>
        {cut ? (
          <a class="button" href={`/api/letter/test${parameters({ group: letter.group, source: letter.source, id: letter.id })}`} download title="A failing test for pytest">
            Download as test
          </a>
        ) : (
          <Copy text={() => asTest(letter, bytesOf(letter.data))} label="Copy as a failing test for pytest" words="Copy as test" />
        )}
        <a class="button" href={to("trace", letter.id)}>
          Trace
        </a>
      </Head>
      <Pending id={letter.id} />
      <div class="callout tone-error">
        <Glyph name="cross" />
        <div>
          <p>
            <strong>
              <Foreign text={letter.error || "Gave up"} />
            </strong>
          </p>
          <p>
            <Foreign text={letter.reason} />
          </p>
        </div>
        <span class="small dim">{letter.blocked > 0 && `${several(letter.blocked, "event")} of its key behind it`}</span>
      </div>
      {repairing && <RepairEditor letter={letter} blocked={blocked} onClose={() => setParams({ do: null })} />}
      <div class="columns">
        <div class="stack">
          <Panel title="Attempts">
            <Attempts letter={letter} />
          </Panel>
          <Panel title="Where it was raised" flush>
            {letter.stack ? <Stack text={letter.stack} /> : <p style={{ padding: "12px 16px" }} class="dim">There is no traceback: no handler was running.</p>}
          </Panel>
        </div>
        <div class="stack">
          <Panel title="Data">
            <Payload body={letter.data} whole={letter.size} raw={`/api/raw/${encodeURIComponent(letter.id)}${parameters({ source: letter.source })}`} />
          </Panel>
          <Panel title="Delivery">
            <Facts
              rows={[
                ["Handler", <Foreign text={letter.handler} mono />],
                ["Topic", <a href={to("topics", letter.topic)}>{line(letter.topic)}</a>],
                ["Partition", `${exact(letter.partition)}, position ${exact(letter.position)}`],
                ["Published", <Time at={letter.time} />],
                ["Source", <Foreign text={letter.source} mono />],
                ["Id", <Id id={letter.id} most={60} copy />],
                ["Version", `${exact(letter.version)}${letter.contract ? `; running code knows version ${letter.contract.version}` : "; no running code knows this contract"}`],
                ["Correlation", <Id id={letter.correlation ?? letter.id} most={60} />],
                letter.state === "retry" && ["Tried again", <Time at={letter.due} />],
              ]}
            />
          </Panel>
        </div>
      </div>
      {asking && <OperationSheet asking={asking} onClose={() => setAsking(null)} />}
    </>
  );
}

/** What was asked for this event in the last hour, and how far it is. */
function Pending({ id }: { id: string }) {
  const operations = useQuery<Operation[]>("/api/operations", 2);
  const mine = operations.data?.filter((one) => one.events.some(([, event]) => event === id) && now.value - one.at < 3600).slice(0, 3) ?? [];
  return (
    <>
      {mine.map((one) => {
        const look = ofOperation(one.status);
        return (
          <p key={one.id} class={`callout tone-${look.tone}`} role="status">
            <Glyph name={look.glyph} />
            <span>
              {one.kind} by {line(one.by)} <Time at={one.at} />: {look.word.toLowerCase()}
              {one.detail && `, ${line(one.detail)}`}
              {one.reason && ` (“${line(one.reason)}”)`}
            </span>
          </p>
        );
      })}
    </>
  );
}

function Attempts({ letter }: { letter: Letter }) {
  const made = letter.attempts_made;
  return (
    <>
      <p class="dim">
        {letter.attempts ? several(letter.attempts, "attempt") : "The handler never ran: the event could not be read"}; first failure <Time at={letter.first} />, last <Time at={letter.last} />.
      </p>
      {made.length > 0 ? (
        <ol class="timeline">
          {made.map((attempt, index) => (
            <li key={index}>
              <State look={ofFate(attempt.kind)} word={`Attempt ${count(attempt.attempt)}`} />
              <div class="small dim">
                {clock(attempt.at)}, waited {duration(attempt.waited)}, worked {duration(attempt.worked)}, in <Id id={attempt.process} most={20} />
              </div>
              {attempt.error && (
                <div>
                  <Foreign text={attempt.error} mono />
                </div>
              )}
            </li>
          ))}
        </ol>
      ) : (
        <p class="faint">Its single attempts are not kept here any more.</p>
      )}
    </>
  );
}

/** A traceback, in which the frames of the service stand out. */
function Stack({ text }: { text: string }) {
  const lines = visible(text).split("\n");
  const foreign = (frame: string) => /site-packages|dist-packages|\/lib\/python3|millstream\/(app|core|contracts|stores|brokers)\//.test(frame);
  if (!lines.some((each) => each.startsWith("  File "))) return <ForeignBlock text={text} class="stack-trace" />;
  let own = true;
  return (
    <pre class="stack-trace foreign" dir="ltr" tabIndex={0}>
      {lines.map((each, index) => {
        if (each.startsWith("  File ")) own = !foreign(each);
        else if (!each.startsWith("    ")) own = true;
        return (
          <span key={index} class={own && each.startsWith("  File ") ? "own" : own ? "" : "lib"}>
            {each}
            {"\n"}
          </span>
        );
      })}
    </pre>
  );
}
