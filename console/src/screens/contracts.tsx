import { useMemo } from "preact/hooks";

import type { Contract } from "../base/api";
import { textOf } from "../base/draft";
import { several } from "../base/format";
import { line } from "../base/inert";
import { useQuery } from "../base/query";
import { param, query as parameters, setParams, to } from "../base/route";
import { example, fields } from "../base/schema";
import { type Uses, usesOf, useTopology } from "../base/topology";
import { Cut } from "../ui/cut";
import { Cell, Facts, Head, Panel, SearchField, Tabs } from "../ui/parts";
import { Tree } from "../ui/payload";
import { Blank, Ready } from "../ui/states";
import { Copy, Foreign, ForeignBlock } from "../ui/text";
import { Chips } from "./topics";

export function ContractsScreen() {
  const found = useQuery<Contract[]>("/api/contracts", 5);
  const map = useTopology();
  const filter = param("q") ?? "";
  const has = (text: string) => text.toLowerCase().includes(filter.toLowerCase());
  return (
    <>
      <Head title="Contracts" below="What running services know of the events they exchange, with who publishes and who handles each." />
      <div class="filterbar">
        <SearchField name="q" label="Filter contracts, their fields included" placeholder="name, topic, service or field" value={filter} />
      </div>
      <Panel flush>
        <Ready query={found}>
          {(contracts) => {
            if (!contracts.length) {
              return (
                <Blank title="No contract is known yet" icon="contracts" command={'@event("order.placed", key="order_id")\n@dataclass(frozen=True)\nclass OrderPlaced:\n    order_id: str'}>
                  Services tell of their contracts when they start with the setting <code>facts</code> on. The smallest one:
                </Blank>
              );
            }
            const shown = contracts.filter((one) => !filter || [one.name, one.topic, one.app, one.summary, ...fields(one.schema).map((field) => field.name)].some(has));
            if (!shown.length) {
              return (
                <Blank title={`None of ${several(contracts.length, "contract")} fits “${line(filter)}”`}>
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
                      <caption class="sr">Contracts</caption>
                      <thead>
                        <tr>
                          <th>Contract</th>
                          <th>Kind</th>
                          <th>Key</th>
                          <th>Topic</th>
                          <th>Published by</th>
                          <th>Handled by</th>
                        </tr>
                      </thead>
                      <tbody>
                        {drawn.map((one) => {
                          const uses = usesOf(map, one.name);
                          return (
                            <tr key={one.name} class="link" data-copy={one.name}>
                              <th scope="row" class="full" style={{ fontWeight: "inherit" }}>
                                <a class="row-link" href={to("contracts", one.name)}>
                                  <Foreign text={one.name} />
                                </a>{" "}
                                <span class="tag">v{one.version}</span>
                                <div class="small dim">{line(one.summary)}</div>
                              </th>
                              <Cell label="Kind">{one.kind}</Cell>
                              <Cell label="Key">
                                <Foreign text={one.key} mono />
                              </Cell>
                              <Cell label="Topic">
                                <a href={to("topics", one.topic)}>{line(one.topic)}</a>
                              </Cell>
                              <Cell label="Published by" full>
                                <Publishers uses={uses} />
                              </Cell>
                              <Cell label="Handled by" full>
                                <Chips names={uses.groups} />
                              </Cell>
                            </tr>
                          );
                        })}
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

function Publishers({ uses }: { uses: Uses }) {
  if (!uses.publishers.length) return <span class="faint">nobody lately</span>;
  return (
    <span class="row" style={{ gap: "4px" }}>
      {uses.publishers.map((one) =>
        one.kind === "group" ? (
          <a key={one.name} class="tag" href={to("groups", one.name)}>
            {line(one.name)}
            {!one.declared && " (undeclared)"}
          </a>
        ) : (
          <span key={one.name} class="tag">
            {line(one.name)}
          </span>
        ),
      )}
    </span>
  );
}

type Tab = "fields" | "example" | "schema";

export function ContractScreen({ name }: { name: string }) {
  const found = useQuery<Contract[]>("/api/contracts", 10);
  return (
    <Ready query={found}>
      {(contracts) => {
        const contract = contracts.find((one) => one.name === name);
        if (!contract) {
          return (
            <>
              <Head title={<Foreign text={name} />} crumbs={[["Contracts", "/contracts"]]} />
              <Panel flush>
                <Blank title="No running service knows this contract" icon="contracts">
                  Its events may still be there: <a href={`/events${parameters({ q: `type:${name}` })}`}>look for them</a>
                </Blank>
              </Panel>
            </>
          );
        }
        return <Page contract={contract} />;
      }}
    </Ready>
  );
}

function Page({ contract }: { contract: Contract }) {
  const tab = (param("tab") ?? "fields") as Tab;
  const uses = usesOf(useTopology(), contract.name);
  const schema = useMemo(() => JSON.stringify(contract.schema, null, 2), [contract]);
  const sample = useMemo(() => textOf(example(contract.schema, contract.schema)), [contract]);
  return (
    <>
      <Head
        title={
          <>
            <Foreign text={contract.name} /> <span class="tag">v{contract.version}</span>
          </>
        }
        crumbs={[["Contracts", "/contracts"]]}
        below={line(contract.summary)}
      >
        <a class="button primary" href={`/publish${parameters({ type: contract.name })}`}>
          Publish…
        </a>
        <a class="button" href={`/map${parameters({ node: `event:${contract.name}` })}`}>
          On the map
        </a>
        <a class="button" href={`/events${parameters({ topic: contract.topic, q: `type:${contract.name}` })}`}>
          Events
        </a>
      </Head>
      <Panel>
        <Facts
          rows={[
            ["Kind", contract.kind === "command" ? "command: for one handler" : "event: for whoever wants it"],
            ["Topic", <a href={to("topics", contract.topic)}>{line(contract.topic)}</a>],
            ["Key", contract.key === null ? <span class="faint">none: events are in no order</span> : <Foreign text={contract.key} mono />],
            ["Told by", <Foreign text={contract.app} />],
            ["Published by", <Publishers uses={uses} />],
            ["Handled by", <Chips names={uses.groups} />],
          ]}
        />
      </Panel>
      <Tabs
        label="Of this contract"
        value={tab}
        options={[
          ["fields", "Fields"],
          ["example", "Example"],
          ["schema", "JSON Schema"],
        ]}
      />
      {tab === "fields" && <FieldTable contract={contract} />}
      {tab === "example" && (
        <Panel actions={<Copy text={sample} label="Copy" />} title="An example that keeps to it">
          <ForeignBlock text={sample} class="small" />
        </Panel>
      )}
      {tab === "schema" && (
        <Panel actions={<Copy text={schema} label="Copy the schema" />} title="JSON Schema">
          <div class="payload">
            <Tree text={schema} />
          </div>
        </Panel>
      )}
    </>
  );
}

function FieldTable({ contract }: { contract: Contract }) {
  const all = useMemo(() => fields(contract.schema), [contract]);
  return (
    <Panel flush>
      {all.length ? (
        <div class="scroll">
          <table class="cards">
            <caption class="sr">Fields of {line(contract.name)}</caption>
            <thead>
              <tr>
                <th>Field</th>
                <th>Type</th>
                <th>Needed</th>
                <th>Default</th>
                <th>Meaning</th>
              </tr>
            </thead>
            <tbody>
              {all.map((field) => (
                <tr key={field.name}>
                  <th scope="row" class="full">
                    <span style={{ paddingLeft: `${field.depth * 16}px` }}>
                      <Foreign text={field.name} mono />
                    </span>
                    {field.name === contract.key && <span class="tag">key</span>}
                  </th>
                  <Cell label="Type">
                    <Foreign text={field.type} mono />
                  </Cell>
                  <Cell label="Needed">{field.required ? "yes" : <span class="faint">no</span>}</Cell>
                  <Cell label="Default">
                    <Foreign text={field.fallback} mono />
                  </Cell>
                  <Cell label="Meaning" full>
                    {line(field.description)}
                  </Cell>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      ) : (
        <Blank title="Its schema names no fields">Any JSON may be in its body.</Blank>
      )}
    </Panel>
  );
}
