// Greedy answers of llama.cpp: node gguf_ask.mjs FOLDER_WITH_NODE_MODULES MODEL.gguf PROMPTS.json THREADS
// PROMPTS.json is a list of [text, most tokens]. Prints the release of llama.cpp, and for each prompt its token ids, the probability
// of the first token of the answer, and the answer's ids and text.
import {readFileSync} from 'node:fs';
import {join, resolve} from 'node:path';
import {pathToFileURL} from 'node:url';

const [packages, modelPath, prompts, threads] = process.argv.slice(2);
const library = join(resolve(packages), 'node_modules', 'node-llama-cpp', 'dist', 'index.js');
const {getLlama} = await import(pathToFileURL(library));
const llama = await getLlama({gpu: false, build: 'never', maxThreads: Number(threads), logLevel: 'error'});
const model = await llama.loadModel({modelPath});
const context = await model.createContext({contextSize: 2048, sequences: 1});
const sequence = context.getSequence();
const rows = [];
for (const [text, most] of JSON.parse(readFileSync(prompts, 'utf8'))) {
    const prompt = model.tokenize(text, true);
    if (model.tokens.shouldPrependBosToken) prompt.unshift(model.tokens.bos);
    await sequence.clearHistory();
    const asked = {generateNext: {token: true, confidence: true, options: {temperature: 0}}};
    const seen = await sequence.controlledEvaluate([...prompt.slice(0, -1), [prompt.at(-1), asked]]);
    const {token, confidence} = seen.at(-1).next;
    const answer = [];
    if (!model.isEogToken(token)) {
        answer.push(token);
        for await (const next of sequence.evaluate([token], {temperature: 0, yieldEogToken: true})) {
            if (answer.length === most || model.isEogToken(next)) break;
            answer.push(next);
        }
    }
    rows.push({prompt, confidence, answer, text: model.detokenize(answer)});
}
console.log(JSON.stringify({release: llama.llamaCppRelease.release, rows}));
await llama.dispose();
