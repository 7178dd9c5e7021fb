// What OpenAI's own client for Node gets from a server: whole and streamed answers, a conversation, an image, files.
// node tests/openai_client.cjs ADDRESS MODEL VIDEO IMAGE; prints one JSON object.
const fs = require("node:fs");
const OpenAI = require("openai");

const [address, model, video, image] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${address}/v1`, apiKey: "none", maxRetries: 0 });

function ask(url, ...texts) {
  const kind = url.startsWith("data:image") ? "image_url" : "video_url";
  const messages = texts.map((text, number) => ({ role: number % 2 ? "assistant" : "user", content: text }));
  messages[0].content = [{ type: kind, [kind]: { url } }, { type: "text", text: texts[0] }];
  return { model, messages, max_tokens: 64 };
}

async function main() {
  const found = {};
  const page = await client.models.list();
  found.models = page.data.map((one) => one.id);
  const uploaded = await client.files.create({ file: fs.createReadStream(video), purpose: "vision" });
  found.filename = (await client.files.retrieve(uploaded.id)).filename;
  const whole = await client.chat.completions.create(ask(uploaded.id, "Who?"));
  found.whole = whole.choices[0].message.content;
  found.segments = whole.tempo.segments.length;
  const stream = await client.chat.completions.create({
    ...ask(uploaded.id, "Who?", "A cat.", "Where?"), stream: true, stream_options: { include_usage: true },
  });
  found.streamed = "";
  for await (const chunk of stream) {
    found.streamed += chunk.choices[0]?.delta?.content ?? "";
    found.tokens = chunk.usage?.total_tokens ?? found.tokens;
  }
  const data = `data:image/png;base64,${fs.readFileSync(image).toString("base64")}`;
  found.image = (await client.chat.completions.create(ask(data, "What color?"))).tempo.usage.frames;
  found.deleted = (await client.files.delete(uploaded.id)).deleted;
  try {
    await client.chat.completions.create({ ...ask(uploaded.id, "Who?"), n: 2 });
  } catch (error) {
    found.refused = [error.status, error.param, error.message];
  }
  console.log(JSON.stringify(found));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
