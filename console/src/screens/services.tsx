import type { Process } from "../base/api";
import { count, several } from "../base/format";
import { line } from "../base/inert";
import { useQuery } from "../base/query";
import { State } from "../ui/glyph";
import { Cell, Head, Panel } from "../ui/parts";
import { Blank, Ready } from "../ui/states";
import { Foreign, Id, Time } from "../ui/text";

/** Every process that was heard of in the last day. */
export function ServicesScreen() {
  const found = useQuery<Process[]>("/api/processes", 2);
  return (
    <>
      <Head title="Services" below="Each process of a service, as it last told of itself." />
      <Ready query={found}>
        {(processes) => {
          if (!processes.length) {
            return (
              <Panel flush>
                <Blank title="No service has told of itself yet" icon="services" command="MILLSTREAM_FACTS=on millstream run module:app">
                  Services tell what they are and do when the setting <code>facts</code> is on.
                </Blank>
              </Panel>
            );
          }
          const apps = [...new Set(processes.map((process) => process.app))].sort();
          return (
            <div class="stack">
              {apps.map((app) => (
                <Service key={app} app={app} processes={processes.filter((process) => process.app === app)} />
              ))}
            </div>
          );
        }}
      </Ready>
    </>
  );
}

const MOST_GONE = 5;

function Service({ app, processes }: { app: string; processes: Process[] }) {
  const alive = processes.filter((process) => process.alive);
  const shown = [...alive, ...processes.filter((process) => !process.alive).slice(0, MOST_GONE)];
  return (
    <Panel title={<Foreign text={app} />} actions={<span class="small dim">{alive.length ? `${several(alive.length, "process", "processes")} alive` : "none alive"}</span>} flush>
      <div class="scroll">
        <table class="cards even">
          <caption class="sr">Processes of {line(app)}</caption>
          <thead>
            <tr>
              <th>State</th>
              <th>Process</th>
              <th>Version</th>
              <th>Started</th>
              <th>Last heard</th>
              <th class="num">Outbox</th>
              <th>Troubles</th>
            </tr>
          </thead>
          <tbody>
            {shown.map((process) => (
              <tr key={process.process}>
                <td class="nowrap">
                  <State look={lookOf(process)} />
                </td>
                <Cell label="Process">
                  <Id id={process.process} most={24} />
                  <div class="small faint">
                    pid {process.pid || "—"} on <Foreign text={process.host} />
                  </div>
                </Cell>
                <Cell label="Version">
                  <Foreign text={process.version} />
                </Cell>
                <Cell label="Started">
                  <Time at={process.started || null} />
                </Cell>
                <Cell label="Last heard">
                  <Time at={process.seen} />
                </Cell>
                <Cell label="Outbox" num>
                  {count(process.outbox)}
                </Cell>
                <Cell label="Troubles" full>
                  {process.troubles.length ? process.troubles.map((trouble) => <div key={trouble}>{line(trouble)}</div>) : <span class="faint">none</span>}
                  {process.unread.map(([topic, events]) => (
                    <div key={topic} class="dim">
                      no group reads {line(topic)}: {several(events, "event")} went nowhere
                    </div>
                  ))}
                  {process.paused.length > 0 && <div class="dim">paused: {process.paused.map(line).join(", ")}</div>}
                </Cell>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </Panel>
  );
}

function lookOf(process: Process) {
  if (process.stopped) return { tone: "neutral", glyph: "dash", word: "Stopped" } as const;
  if (!process.alive) return { tone: "error", glyph: "square", word: "Gone" } as const;
  if (process.troubles.length) return { tone: "warn", glyph: "up", word: "In trouble" } as const;
  return { tone: "ok", glyph: "dot", word: "Alive" } as const;
}
