// Where the client begins: which page an address is, its title, the keys, and what is shown when a page breaks.

import { Component } from "./vendor/preact.js";
import { html, render, useEffect } from "./core/html.js";
import { listen as listenToKeys } from "./core/keys.js";
import { listen as listenToLinks, match, place } from "./core/router.js";
import { turnTheme } from "./core/theme.js";
import { problemOf } from "./core/api.js";
import { Head, Trouble } from "./part/basics.js";
import { Frame, helping } from "./part/frame.js";
import { DeadLetters } from "./page/dead_letters.js";
import { Members } from "./page/members.js";
import { Overview } from "./page/overview.js";
import { Pipeline } from "./page/pipeline.js";
import { Pipelines } from "./page/pipelines.js";
import { TaskPage } from "./page/task.js";
import { Tasks } from "./page/tasks.js";

const ROUTES = [
  ["/", Overview, () => "Overview"],
  ["/pipelines", Pipelines, () => "Pipelines"],
  ["/tasks", Tasks, () => "Tasks"],
  ["/dead-letters", DeadLetters, () => "Dead letters"],
  ["/members", Members, () => "Members"],
  ["/applications/{app}/pipelines/{name}", Pipeline, ({ app, name }) => `${app}/${name}`],
  ["/applications/{app}/tasks/{id}", TaskPage, ({ id }) => `Task ${id}`],
];

function found(path) {
  for (const [pattern, Page, title] of ROUTES) {
    const values = match(pattern, path);
    if (values) return { Page, values, title: title(values) };
  }
  return null;
}

function NoPage() {
  return html`<${Head} title="There is no such page" /><p><a href="/">Go to the overview</a></p>`;
}

/** Shows what broke in a page, and lets the frame live. */
class Guard extends Component {
  constructor(props) {
    super(props);
    this.state = { problem: null };
  }

  componentDidCatch(err) {
    console.error(err);
    this.setState({ problem: problemOf(err) });
  }

  render() {
    return this.state.problem ? html`<${Trouble} problem=${this.state.problem} />` : this.props.children;
  }
}

function App() {
  const { path } = place.value;
  const page = found(path);
  const title = page?.title ?? "No page";
  useEffect(() => {
    document.title = `${title} · Workload`;
  }, [title]);
  return html`<${Frame}><${Guard} key=${path}>${page ? html`<${page.Page} ...${page.values} />` : html`<${NoPage} />`}<//><//>`;
}

listenToLinks();
listenToKeys({
  "/": () => document.getElementById("search")?.focus(),
  "?": () => {
    helping.value = true;
  },
  t: turnTheme,
});
const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App} />`, root);
