import { count, duration, rate } from "../base/format";
import { ofGroup } from "../base/health";
import { line } from "../base/inert";
import { says } from "../screens/group";
import { Glyph, State } from "../ui/glyph";
import { Cell, Panel } from "../ui/parts";
import { type Graph, lookOf, meanOf } from "./model";

const WORDS = {
  live: { tone: "ok", glyph: "dot", word: "flowing" },
  silent: { tone: "neutral", glyph: "dash", word: "silent" },
  undeclared: { tone: "warn", glyph: "question", word: "undeclared" },
  failing: { tone: "error", glyph: "cross", word: "failing" },
} as const;

/** The same as the map, in two tables. */
export function MapTable({ graph, onSelect }: { graph: Graph; onSelect: (id: string) => void }) {
  const nameOf = (id: string) => line(id.slice(id.indexOf(":") + 1));
  const handlers = graph.nodes.filter((node) => node.kind === "handler" || node.kind === "service");
  return (
    <div class="stack map-table">
      <Panel title="Handlers" flush>
        <div class="scroll">
          <table class="cards">
            <caption class="sr">Handlers on the map</caption>
            <thead>
              <tr>
                <th>Verdict</th>
                <th>Handler</th>
                <th>Service</th>
                <th class="num">Waiting</th>
                <th class="num">Oldest</th>
                <th class="num">Dead</th>
              </tr>
            </thead>
            <tbody>
              {handlers.map((node) => (
                <tr key={node.id} class="link">
                  <td class="full">
                    <State look={ofGroup(node.node.health?.state)} />
                    {node.node.health && says(node.node.health) && <div class="small dim">{line(node.node.health.sentence)}</div>}
                  </td>
                  <Cell label="Handler">
                    <button type="button" class="button plain tiny" onClick={() => onSelect(node.id)}>
                      {line(node.label)}
                    </button>
                  </Cell>
                  <Cell label="Service">
                    {line(node.service ?? "")}
                    {!node.alive && <div class="small faint">no process alive</div>}
                  </Cell>
                  <Cell label="Waiting" num>
                    {count(node.node.lag)}
                  </Cell>
                  <Cell label="Oldest" num>
                    {node.node.lag ? duration(node.node.age) : "—"}
                  </Cell>
                  <Cell label="Dead" num>
                    {count(node.node.dead)}
                  </Cell>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      </Panel>
      <Panel title="Flows" flush>
        <div class="scroll">
          <table class="cards">
            <caption class="sr">Edges of the map with their figures</caption>
            <thead>
              <tr>
                <th>From</th>
                <th>To</th>
                <th>State</th>
                <th class="num">Rate</th>
                <th class="num">Waited</th>
                <th class="num">Worked</th>
                <th class="num">Failed</th>
                <th class="num">Duplicates</th>
              </tr>
            </thead>
            <tbody>
              {graph.edges.map((edge) => {
                const mean = meanOf(edge.edge, graph.window);
                const look = WORDS[lookOf(edge.edge, graph.window)];
                return (
                  <tr key={edge.id}>
                    <Cell label="From">{nameOf(edge.from)}</Cell>
                    <Cell label="To">{nameOf(edge.to)}</Cell>
                    <td>
                      <span class={`state tone-${look.tone}`}>
                        <Glyph name={look.glyph} />
                        {look.word}
                      </span>
                    </td>
                    <Cell label="Rate" num>
                      {rate(edge.edge.rate)}
                    </Cell>
                    <Cell label="Waited" num>
                      {edge.to.startsWith("event:") ? "" : duration(mean?.waited)}
                    </Cell>
                    <Cell label="Worked" num>
                      {edge.to.startsWith("event:") ? "" : duration(mean?.worked)}
                    </Cell>
                    <Cell label="Failed" num>
                      {count(edge.edge.failed)}
                    </Cell>
                    <Cell label="Duplicates" num>
                      {count(edge.edge.duplicates)}
                    </Cell>
                  </tr>
                );
              })}
            </tbody>
          </table>
        </div>
      </Panel>
    </div>
  );
}
