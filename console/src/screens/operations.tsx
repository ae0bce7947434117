import type { Operation } from "../base/api";
import { exact, several } from "../base/format";
import { ofOperation } from "../base/health";
import { line } from "../base/inert";
import { useQuery } from "../base/query";
import { param, to } from "../base/route";
import { Cut } from "../ui/cut";
import { State } from "../ui/glyph";
import { Cell, Head, Panel, SearchField } from "../ui/parts";
import { Blank, Ready } from "../ui/states";
import { Copy, Foreign, Id, Time } from "../ui/text";

/** What operators did, and what became of it. */
export function OperationsScreen() {
  const found = useQuery<Operation[]>("/api/operations", 3);
  const filter = param("q") ?? "";
  return (
    <>
      <Head title="Operations" below="Everything that people asked of running services: who, why, and what became of it. It cannot be changed here.">
        {found.data && <Copy text={() => JSON.stringify(found.data, null, 2)} label="Copy all of it as JSON" words="Copy as JSON" />}
      </Head>
      <div class="filterbar">
        <SearchField name="q" label="Filter operations" placeholder="group, kind, person or reason" value={filter} />
      </div>
      <Panel flush>
        <Ready query={found}>
          {(operations) => {
            const shown = operations.filter((one) => [one.group, one.kind, one.by, one.reason, one.id].some((text) => text.toLowerCase().includes(filter.toLowerCase())));
            if (!operations.length) {
              return (
                <Blank title="Nobody has changed anything yet" icon="operations">
                  Pauses, redrives, repairs, discards and resets are listed here, from this console and from the terminal.
                </Blank>
              );
            }
            if (!shown.length) return <Blank title={`None of ${several(operations.length, "operation")} fits`} />;
            return (
              <Cut list={shown}>
                {(drawn) => (
                  <div class="scroll">
                    <table class="cards">
                      <caption class="sr">Operations, the newest first</caption>
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
                        {drawn.map((one) => (
                          <OperationRow key={one.id} operation={one} />
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
    </>
  );
}

export function OperationRow({ operation, short }: { operation: Operation; short?: boolean }) {
  const events = operation.events.length;
  return (
    <tr data-copy={operation.id} class="link" tabIndex={short ? undefined : 0}>
      <td class="nowrap">
        <State look={ofOperation(operation.status)} />
      </td>
      <Cell label="Operation">
        {operation.kind} <a href={to("groups", operation.group)}><Foreign text={operation.group} /></a>
        {events > 0 && <div class="small faint" title={operation.events.map(([, id]) => line(id)).join(", ")}>{several(events, "dead letter")}</div>}
        {short && operation.reason && <div class="small dim">“{line(operation.reason)}”</div>}
      </Cell>
      <Cell label="When">
        <Time at={operation.at} />
        {short && <div class="small faint">{line(operation.by)}</div>}
      </Cell>
      {!short && (
        <>
          <Cell label="By">{line(operation.by)}</Cell>
          <Cell label="Reason" full>
            <Foreign text={operation.reason} />
          </Cell>
          <Cell label="Detail" full>
            <Foreign text={operation.detail} />
            <div class="small faint">
              <Id id={operation.id} most={16} copy />
              {operation.answered !== null && ` answered after ${exact(Math.max(0, Math.round((operation.answered - operation.at) * 1000)))} ms`}
            </div>
          </Cell>
        </>
      )}
    </tr>
  );
}
