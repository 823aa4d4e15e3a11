// Answers of llama.cpp to prompts, greedily: node gguf_ask.mjs FOLDER_WITH_NODE_MODULES MODEL.gguf PROMPTS.json
// PROMPTS.json is a list of [text, most tokens]. Prints a JSON list of {prompt, answer, text}: token ids, ids, text.
import {readFileSync} from 'node:fs';
import {join, resolve} from 'node:path';
import {pathToFileURL} from 'node:url';

const [packages, modelPath, prompts] = process.argv.slice(2);
const library = join(resolve(packages), 'node_modules', 'node-llama-cpp', 'dist', 'index.js');
const {getLlama} = await import(pathToFileURL(library));
const llama = await getLlama({gpu: false, build: 'never', maxThreads: 1, logLevel: 'error'});
const model = await llama.loadModel({modelPath});
const context = await model.createContext({contextSize: 2048, sequences: 1});
const sequence = context.getSequence();
const out = [];
for (const [text, most] of JSON.parse(readFileSync(prompts, 'utf8'))) {
    const prompt = model.tokenize(text, true);
    if (model.tokens.shouldPrependBosToken) prompt.unshift(model.tokens.bos);
    const answer = [];
    await sequence.clearHistory();
    for await (const token of sequence.evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
        if (model.isEogToken(token)) break;
        answer.push(token);
        if (answer.length === most) break;
    }
    out.push({prompt, answer, text: model.detokenize(answer)});
}
console.log(JSON.stringify({llama: llama.llamaCppRelease, rows: out}));
await llama.dispose();
