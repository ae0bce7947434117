import { useState } from "preact/hooks";

import type { LabState, Proof } from "../base/api";
import { count } from "../base/format";
import { Failure, post } from "../base/http";
import { line } from "../base/inert";
import { announce } from "../base/live";
import { refresh, useQuery } from "../base/query";
import { Icon } from "../ui/icon";
import { Action, Cell, Facts, Head, Panel } from "../ui/parts";
import { Ready } from "../ui/states";
import { Foreign, Id } from "../ui/text";

/** Faults on demand in a demo, and the proof that they cost nothing. */
export function LabScreen() {
  const found = useQuery<LabState>("/api/lab", 2);
  const [said, setSaid] = useState<string[]>([]);
  const [busy, setBusy] = useState<string | null>(null);
  const [proof, setProof] = useState<Proof | null>(null);

  const act = async (action: string, details: object, words: (answer: Record<string, unknown>) => string) => {
    if (busy) return;
    setBusy(action);
    try {
      const answer = await post<Record<string, unknown>>(`/api/lab/${action}`, details);
      if (action === "prove") setProof(answer as unknown as Proof);
      const sentence = words(answer);
      announce(sentence);
      setSaid((before) => [sentence, ...before].slice(0, 8));
      refresh();
    } catch (error) {
      setSaid((before) => [`Not done: ${error instanceof Failure ? error.message : String(error)}`, ...before].slice(0, 8));
    } finally {
      setBusy(null);
    }
  };
  const waits = busy === null ? null : busy === "prove" ? "The proof is being made." : "One thing at a time.";

  return (
    <>
      <Head title="Lab" below="Break the demo on purpose, watch the map, and have every promise checked by an auditor that reads only databases, mails and the log." />
      <Ready query={found}>
        {(state) => (
          <div class="columns">
            <div class="stack">
              <Panel title="Faults">
                <div class="stack">
                  <div class="row">
                    <Action needs="admin" icon="plus" blocked={waits} onClick={() => void act("order", {}, (answer) => `Placed the order ${line(String(answer.order_id))}.`)}>
                      Place an order
                    </Action>
                    <Action
                      needs="admin"
                      icon="copy"
                      blocked={waits}
                      onClick={() => void act("duplicate", {}, (answer) => `Published ${String(answer.events)} events a second time.`)}
                    >
                      Repeat ten events
                    </Action>
                    <Action
                      needs="admin"
                      icon="dead"
                      blocked={waits}
                      onClick={() => void act("poison", {}, () => "Published an event that breaks its contract: see Dead letters.")}
                    >
                      Publish poison
                    </Action>
                  </div>
                  <table>
                    <caption class="sr">Processes that can be killed</caption>
                    <thead>
                      <tr>
                        <th>Service</th>
                        <th>Process</th>
                        <th>
                          <span class="sr">Kill it</span>
                        </th>
                      </tr>
                    </thead>
                    <tbody>
                      {state.services.map((service) => (
                        <tr key={service.name}>
                          <Cell label="Service">
                            <Foreign text={service.name} />
                          </Cell>
                          <Cell label="Process">{service.pid}</Cell>
                          <Cell label="Kill it">
                            <Action
                              needs="admin"
                              icon="close"
                              blocked={waits}
                              onClick={() =>
                                void act("kill", { name: service.name }, (answer) =>
                                  answer.pid ? `Killed ${service.name} with kill -9; it is started again.` : `${service.name} is dead already.`,
                                )
                              }
                            >
                              kill -9<span class="sr"> {service.name}</span>
                            </Action>
                          </Cell>
                        </tr>
                      ))}
                    </tbody>
                  </table>
                  <div class="row" role="group" aria-label="Orders a second">
                    <Action needs="admin" icon="minus" blocked={waits} onClick={() => void act("rate", { rate: state.rate / 2 }, (answer) => `${String(answer.rate)} orders a second.`)}>
                      Fewer orders
                    </Action>
                    <Action needs="admin" icon="plus" blocked={waits} onClick={() => void act("rate", { rate: state.rate * 2 }, (answer) => `${String(answer.rate)} orders a second.`)}>
                      More orders
                    </Action>
                  </div>
                </div>
              </Panel>
              <Panel title="What was done">
                {said.length ? (
                  <ul class="list" aria-live="polite">
                    {said.map((sentence, index) => (
                      <li key={`${said.length - index}`}>{line(sentence)}</li>
                    ))}
                  </ul>
                ) : (
                  <p class="dim">Nothing yet, by this page.</p>
                )}
              </Panel>
            </div>
            <div class="stack">
              <Panel title="So far">
                <Facts
                  rows={[
                    ["Orders", count(state.figures.orders)],
                    ["Events", count(state.figures.published)],
                    ["Waiting", count(state.figures.waiting)],
                    ["Dead letters", count(state.figures.dead_letters)],
                    ["Kills", count(state.kills)],
                    ["Repeated events", count(state.duplicates)],
                    ["Poison", count(state.poison)],
                    ["Orders a second", String(state.rate)],
                    ["Mode", <Foreign key="mode" text={state.mode} />],
                  ]}
                />
              </Panel>
              <Panel
                title="Proof"
                actions={
                  <Action needs="admin" icon="done" kind="primary" blocked={waits} onClick={() => void act("prove", {}, (answer) => (answer.ok ? "Every promise holds." : "A promise is broken."))}>
                    {busy === "prove" ? "Working off what is left…" : "Prove it now"}
                  </Action>
                }
              >
                {proof ? <Verdicts proof={proof} /> : <p class="dim">Customers rest for a moment, what is left is worked off, and each promise is checked.</p>}
              </Panel>
            </div>
          </div>
        )}
      </Ready>
    </>
  );
}

function Verdicts({ proof }: { proof: Proof }) {
  return (
    <>
      <p role="status">
        <strong>{proof.ok ? "Every promise holds." : "A promise is broken."}</strong>{" "}
        <span class="dim">
          {count(proof.counts.orders ?? 0)} orders, {count(proof.counts.kills ?? 0)} kills, {count(proof.counts.duplicates ?? 0)} duplicates, {count(proof.counts.poison ?? 0)} poison
        </span>
      </p>
      <ul class="list">
        {proof.invariants.map((invariant) => (
          <li key={invariant.name}>
            <Icon name={invariant.ok ? "done" : "dead"} /> {invariant.ok ? "Holds" : "Broken"}: {line(invariant.name)}{" "}
            <span class="small dim">
              {count(invariant.checked)} checked, {count(invariant.violations)} violations
            </span>
            {invariant.evidence.map((evidence) => (
              <div key={evidence} class="small">
                <Id id={evidence} most={80} />
              </div>
            ))}
          </li>
        ))}
      </ul>
    </>
  );
}
