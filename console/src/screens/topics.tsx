import type { Contract, Topic } from "../base/api";
import { bytes, count, duration, exact, rate, several } from "../base/format";
import { ofGroup } from "../base/health";
import { line } from "../base/inert";
import { useQuery } from "../base/query";
import { param, query as parameters, setParams, to } from "../base/route";
import { groups } from "../base/system";
import { Cut } from "../ui/cut";
import { Glyph } from "../ui/glyph";
import { Cell, Facts, Head, Panel, SearchField, Tabs } from "../ui/parts";
import { Blank, Ready } from "../ui/states";
import { Foreign, InTerminal } from "../ui/text";
import { EventList } from "./events";

export function TopicsScreen() {
  const found = useQuery<Topic[]>("/api/topics", 3);
  const filter = param("q") ?? "";
  return (
    <>
      <Head title="Topics" below="Where events are kept, in their order, for every group that reads them." />
      <div class="filterbar">
        <SearchField name="q" label="Filter topics" placeholder="topic or group" value={filter} />
      </div>
      <Panel flush>
        <Ready query={found}>
          {(topics) => {
            if (!topics.length) {
              return (
                <Blank title="There is no topic yet" icon="topics" command="millstream publish order.placed --data '{…}'">
                  A topic is made when something is published into it, or a group reads it.
                </Blank>
              );
            }
            const shown = topics.filter((topic) => [topic.name, ...topic.groups].some((text) => text.toLowerCase().includes(filter.toLowerCase())));
            if (!shown.length) {
              return (
                <Blank title={`None of ${several(topics.length, "topic")} fits “${line(filter)}”`}>
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
                      <caption class="sr">Topics</caption>
                      <thead>
                        <tr>
                          <th>Topic</th>
                          <th class="num">Rate</th>
                          <th class="num">Kept</th>
                          <th class="num">Published</th>
                          <th class="num">Partitions</th>
                          <th>Kept for</th>
                          <th>Groups</th>
                        </tr>
                      </thead>
                      <tbody>
                        {drawn.map((topic) => (
                          <tr key={topic.name} class="link" data-copy={topic.name}>
                            <th scope="row" class="full">
                              <a class="row-link" href={to("topics", topic.name)}>
                                <Foreign text={topic.name} />
                              </a>
                            </th>
                            <Cell label="Rate" num>
                              {rate(topic.per_second)}
                            </Cell>
                            <Cell label="Kept" num>
                              <span title={exact(topic.events)}>{count(topic.events)}</span>
                            </Cell>
                            <Cell label="Published" num>
                              <span title={exact(topic.published)}>{count(topic.published)}</span>
                            </Cell>
                            <Cell label="Partitions" num>
                              {count(topic.partitions)}
                            </Cell>
                            <Cell label="Kept for">{retention(topic)}</Cell>
                            <Cell label="Groups" full>
                              <Chips names={topic.groups} />
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
    </>
  );
}

function retention(topic: Topic): string {
  const parts = [topic.retain_seconds === null ? null : duration(topic.retain_seconds), topic.retain_bytes === null ? null : bytes(topic.retain_bytes)];
  return parts.filter(Boolean).join(", ") || "ever";
}

/** Groups with their health, as links. */
export function Chips({ names }: { names: string[] }) {
  if (!names.length) return <span class="faint">nobody reads it</span>;
  return (
    <span class="row" style={{ gap: "4px" }}>
      {names.map((name) => {
        const look = ofGroup(groups.value?.find((group) => group.name === name)?.verdict.state);
        return (
          <a key={name} class="tag" href={to("groups", name)} title={look.word}>
            <span class={`tone-${look.tone}`} style={{ color: "var(--tone)", display: "inline-flex" }}>
              <Glyph name={look.glyph} size={10} title={look.word} />
            </span>
            {line(name)}
          </a>
        );
      })}
    </span>
  );
}

type Tab = "events" | "groups" | "contracts";

export function TopicScreen({ name }: { name: string }) {
  const topics = useQuery<Topic[]>("/api/topics", 3);
  const tab = (param("tab") ?? "events") as Tab;
  return (
    <>
      <Head title={<Foreign text={name} />} crumbs={[["Topics", "/topics"]]}>
        <a class="button" href={`/publish${parameters({ topic: name })}`}>
          Publish
        </a>
      </Head>
      <Ready query={topics} lines={2}>
        {(all) => {
          const topic = all.find((one) => one.name === name);
          if (!topic) {
            return (
              <Panel flush>
                <Blank title="There is no such topic" icon="topics">
                  It may have been removed, or nothing was ever published into it. <a href="/topics">All topics</a>
                </Blank>
              </Panel>
            );
          }
          return (
            <>
              <Panel>
                <Facts
                  rows={[
                    ["Rate", `${rate(topic.per_second)} over the last minute`],
                    ["Events", `${exact(topic.events)} kept of ${exact(topic.published)} published`],
                    ["Partitions", count(topic.partitions)],
                    ["Kept for", retention(topic)],
                  ]}
                />
              </Panel>
              <Tabs
                label="Of this topic"
                value={tab}
                options={[
                  ["events", "Events"],
                  ["groups", `Groups (${topic.groups.length})`],
                  ["contracts", "Contracts"],
                ]}
              />
              {tab === "events" && <EventList topic={name} />}
              {tab === "groups" && <Readers topic={topic} />}
              {tab === "contracts" && <Contracts topic={name} />}
              <InTerminal words={["tail", "--topic", name]} />
            </>
          );
        }}
      </Ready>
    </>
  );
}

function Readers({ topic }: { topic: Topic }) {
  return <Panel>{topic.groups.length ? <Chips names={topic.groups} /> : <p class="dim">No group has a position in this topic.</p>}</Panel>;
}

function Contracts({ topic }: { topic: string }) {
  const found = useQuery<Contract[]>("/api/contracts", 30);
  return (
    <Panel>
      <Ready query={found} lines={2}>
        {(contracts) => {
          const mine = contracts.filter((contract) => contract.topic === topic);
          if (!mine.length) return <p class="dim">No running service knows a contract that is published here.</p>;
          return (
            <ul class="stack" style={{ gap: "8px" }}>
              {mine.map((contract) => (
                <li key={contract.name}>
                  <a href={to("contracts", contract.name)}>{line(contract.name)}</a> <span class="tag">v{contract.version}</span>{" "}
                  <span class="dim">{line(contract.summary)}</span>
                </li>
              ))}
            </ul>
          );
        }}
      </Ready>
    </Panel>
  );
}
