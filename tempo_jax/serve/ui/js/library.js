// The first view: videos to pick, and files to upload.

import * as api from "./api.js";
import { announce, button, byId, h, icon, replace } from "./dom.js";
import { bytes, duration, plural } from "./format.js";
import { toast } from "./notices.js";

const FILTER_FROM = 9; // videos
const TYPING_MS = 200;

export class Library {
  // open(video); removed(video): after an upload has been deleted.
  constructor(info, { open, removed }) {
    Object.assign(this, { info, open, removed, videos: [], total: 0, query: "", loads: 0, pending: [] });
    const chooser = byId("file");
    chooser.accept = info.accept.join(",");
    byId("choose").addEventListener("click", () => chooser.click());
    chooser.addEventListener("change", () => {
      this.upload([...chooser.files]);
      chooser.value = "";
    });
    byId("upload-hint").textContent = `Or drop it anywhere on this page. Up to ${bytes(info.limits.upload_bytes)} and ${duration(info.limits.video_seconds)}.`;
    byId("more-videos").addEventListener("click", () => this.#load(this.videos.length));
    byId("filter").addEventListener("submit", (event) => event.preventDefault());
    byId("query").addEventListener("input", ({ target }) => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => {
        this.query = target.value.trim();
        this.#load(0);
      }, TYPING_MS);
    });
    this.#acceptDrops();
  }

  show() {
    return this.#load(0);
  }

  async #load(offset) {
    const { query } = this;
    const load = ++this.loads;
    let found;
    try {
      found = await api.videos({ query, offset });
    } catch (error) {
      return load === this.loads && this.#empty(error.message);
    }
    if (load !== this.loads) return; // a later one knows more: something was typed, uploaded or deleted
    this.videos = offset ? [...this.videos, ...found.videos] : found.videos;
    this.total = found.total;
    if (!query) byId("filter").hidden = found.total < FILTER_FROM;
    replace(byId("videos"), this.videos.map((video) => this.#card(video)));
    byId("more-videos").hidden = this.videos.length >= this.total;
    this.#empty(this.videos.length ? "" : query ? `No name contains “${query}”.` : "There is nothing here yet: upload a video to ask about. (Whoever runs the server can offer folders of videos: tempo serve --folder.)");
    if (query) announce(plural(this.total, "video"));
    if (offset) byId("videos").children[offset]?.querySelector("a").focus();
  }

  #empty(text) {
    byId("no-videos").hidden = !text;
    byId("no-videos").textContent = text;
  }

  #card(video) {
    const parts = video.name.split("/");
    const file = parts.pop();
    const facts = [video.source === "upload" ? "Your upload" : parts.join("/"), video.kind === "image" ? "image" : "", bytes(video.bytes)];
    const questions = video.questions.length ? plural(video.questions.length, "example question") : "";
    const picture = h("img", { src: video.thumbnail_url, alt: "", loading: "lazy", on: { error: ({ target }) => target.remove() } });
    const remove =
      video.source === "upload" && button(`Delete ${file}`, { iconName: "trash", iconOnly: true, class: "quiet", on: { click: () => this.#remove(video) } });
    return h(
      "li",
      { class: "video" },
      h(
        "a",
        { href: `#video=${encodeURIComponent(video.id)}` },
        h("span", { class: "frame" }, icon("play"), picture),
        h("span", { class: "name" }, file),
        h("span", { class: "hint" }, facts.filter(Boolean).join(" · ")),
        questions && h("span", { class: "hint" }, questions),
      ),
      remove,
    );
  }

  async #remove(video) {
    try {
      await api.removeVideo(video.id);
    } catch (error) {
      if (error.status !== 404) return toast(error.message);
    }
    this.removed(video);
    toast("The upload is deleted.");
    await this.#load(0);
    byId("choose").focus();
  }

  // Uploads, one after the other.

  async upload(files) {
    const alone = files.length === 1 && !this.pending.length;
    for (const file of files) this.pending.push(this.#row(file));
    if (this.uploading) return;
    this.uploading = true;
    while (this.pending.length) {
      const video = await this.#send(this.pending.shift());
      if (!video) continue;
      if (byId("library").hidden) toast(`${video.name} is uploaded.`);
      else if (alone && !this.pending.length) this.open(video);
      else await this.#load(0);
    }
    this.uploading = false;
  }

  #row(file) {
    const row = { file, canceled: false };
    row.bar = h("progress", { max: 1, value: 0, "aria-label": `Uploading ${file.name}` });
    row.text = h("span", { class: "hint" }, "waiting");
    row.cancel = button(`Cancel the upload of ${file.name}`, { iconName: "close", iconOnly: true, class: "quiet", on: { click: () => row.abort() } });
    row.element = h("li", { class: "upload" }, h("div", {}, h("span", { class: "name" }, file.name), row.bar, row.text), row.cancel);
    row.abort = () => {
      row.canceled = true;
      row.element.remove();
    };
    byId("uploads").append(row.element);
    return row;
  }

  async #send(row) {
    if (row.canceled) return null;
    const { file } = row;
    const most = this.info.limits.upload_bytes;
    if (!file.size) return this.#refuse(row, "This file is empty: choose another.");
    if (file.size > most) return this.#refuse(row, `This file has ${bytes(file.size)}, and this server takes ${bytes(most)}: cut it or scale it down.`);
    const began = performance.now();
    const sending = api.upload(file, (loaded, total) => {
      row.bar.max = total;
      row.bar.value = loaded;
      const rest = ((performance.now() - began) / 1000) * (total / Math.max(loaded, 1) - 1);
      row.text.textContent = loaded < total ? `${bytes(loaded)} of ${bytes(total)}, about ${duration(Math.max(1, rest))} left` : "being checked …";
    });
    row.abort = sending.cancel;
    announce(`Uploading ${file.name}`);
    try {
      const video = await sending.done;
      row.element.remove();
      announce(`${file.name} is uploaded.`);
      return video;
    } catch (error) {
      if (error.name !== "AbortError") return this.#refuse(row, error.message);
      row.element.remove();
      toast("The upload is canceled.");
      await this.#load(0); // where all of it had been sent, it is there nevertheless
      byId("choose").focus();
      return null;
    }
  }

  #refuse(row, sentence) {
    row.abort = () => row.element.remove();
    const dismiss = button("Dismiss", { class: "quiet small", on: { click: () => row.element.remove() } });
    const again = button("Try again", {
      class: "quiet small",
      on: {
        click: () => {
          row.element.remove();
          this.upload([row.file]);
        },
      },
    });
    row.element.classList.add("failed");
    replace(row.element, h("div", { role: "alert" }, h("span", { class: "name" }, row.file.name), h("span", { class: "problem" }, sentence)), again, dismiss);
    return null;
  }

  #acceptDrops() {
    const veil = byId("drop-veil");
    const files = (event) => event.dataTransfer?.types.includes("Files") && !document.body.classList.contains("signed-out");
    document.addEventListener("dragover", (event) => {
      if (!files(event)) return;
      event.preventDefault();
      veil.hidden = false;
    });
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) veil.hidden = true;
    });
    document.addEventListener("drop", (event) => {
      veil.hidden = true;
      if (!files(event)) return;
      event.preventDefault();
      const given = [...event.dataTransfer.files];
      location.hash = "";
      this.upload(given);
    });
  }
}
