// Failed attempts of about the last hour, grouped by their cause.

import { html } from "../core/html.js";
import { count } from "../core/format.js";
import { href } from "../core/router.js";
import { Soft, Theirs, Time } from "./basics.js";
import { PipelineLink } from "./frame.js";

function Failure({ failure, app, withPipeline }) {
  const path = failure.task && href.task(failure.app ?? app, failure.task);
  const task = path && html` · <a class="mono" href=${path}>${failure.task}</a>`;
  return html`<li class="cause">
    <div>
      <code class="theirs">${failure.code}</code>
      ${withPipeline && html` <${Soft}><${PipelineLink} app=${failure.app} name=${failure.name} /><//>`}
      <p class="clip"><${Theirs} text=${failure.message} max=${300} /></p>
      <p class="soft small">newest <${Time} at=${failure.last_at} />${task}</p>
    </div>
    <div class="count" title="failed attempts">${count(failure.count)}</div>
  </li>`;
}

/** `failures` are those of stats; where several pipelines are shown together each has `app` and `name`. */
export function Failures({ failures, app, withPipeline }) {
  if (failures.length === 0) return html`<p class="empty">No attempt has failed in about the last hour.</p>`;
  const key = (failure) => `${failure.name}/${failure.code}/${failure.task}`;
  return html`<ul class="causes">
    ${failures.map((each) => html`<${Failure} key=${key(each)} failure=${each} app=${app} withPipeline=${withPipeline} />`)}
  </ul>`;
}
