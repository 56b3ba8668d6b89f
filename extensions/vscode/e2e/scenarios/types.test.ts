// Other debug types, and Go in its other ways.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import * as path from 'node:path';

import { MirrordSuite, nothingRuns, pick, pickerTitle, sessions, statusId, steal, turnOn } from '../driver/mirrord.ts';
import { until } from '../driver/wait.ts';
import type { Window } from '../driver/window.ts';

const python = execFileSync(path.join(import.meta.dirname, '../python.sh'), { stdio: ['ignore', 'pipe', 'inherit'] }).toString().trim();
const suite = new MirrordSuite(() => ({ 'python.defaultInterpreterPath': python }));
let w: Window;

suite.scenario('types: debugpy, a request stops at a breakpoint and is answered', async bench => {
	const folder = bench.workspace('python');
	// The bench has a home of its own, and this Python may be in the user's.
	const places = execFileSync(python, ['-c', 'import sys; print(sys.prefix, sys.base_prefix)']).toString().trim().split(' ');
	fs.mkdirSync(path.join(folder, '.mirrord'));
	fs.writeFileSync(path.join(folder, '.mirrord/mirrord.json'), JSON.stringify({ feature: { fs: { mode: 'read', local: places.map(p => `^${p}/`) } } }));
	w = await bench.open(folder);
	await turnOn(w);
	await w.debugging.breakAt('web.py', 'body = json.dumps(a)');
	await w.debugging.start('web');
	await w.quickPick.titled(pickerTitle);
	await steal(w);
	await pick(w, 'deployment/web');
	await w.debugging.prints(/shop python listens/);
	await until('the port to be stolen', async () => (await sessions(bench))[0]?.ports?.includes(8080));
	const answer = suite.shop.ask('/python');
	await w.debugging.paused();
	await w.statusShows(statusId, /mirrord: stopped in /);
	assert.match((await w.debugging.variables('Locals')).join('\n'), /^a = \{'copy': 'python', 'host': 'web-/m);
	await w.debugging.continue();
	const a = await answer;
	assert.deepEqual({ copy: a.copy, greeting: a.greeting, path: a.path }, { copy: 'python', greeting: 'hello from the cluster', path: '/python' });
	await w.debugging.stop();
	await nothingRuns(bench);
	await bench.close(w);
});

suite.scenario('types: go in a terminal, which shows no secret', async bench => {
	w = await bench.open(bench.workspace('go'));
	await turnOn(w);
	await w.debugging.breakAt('main.go', 'return answer{');
	await w.debugging.start('once in a terminal');
	await pick(w, 'deployment/web');
	await w.debugging.paused();
	assert.match((await w.debugging.variables('Locals')).join('\n'), /^greeting = "hello from the cluster"/m);
	await w.terminal.show();
	const line = await w.terminal.shows(/MIRRORD_SESSION=/);
	assert.doesNotMatch(line, /hello from the cluster|sample-token|SHOP_/);
	await w.debugging.continue();
	await w.debugging.ended();
	await w.terminal.shows(/shop go on web-.*: hello from the cluster/);
});

suite.scenario('types: go tests, and without debugging', async () => {
	await w.debugging.start('tests');
	await pick(w, 'deployment/web');
	await w.debugging.paused();
	assert.match((await w.debugging.callStack()).join('\n'), /shop\.answerTo/);
	await w.debugging.continue();
	await w.debugging.ended();
	await w.debugging.prints(/PASS/);
	await w.debugging.start('once');
	await w.quickPick.titled(pickerTitle);
	await w.quickPick.escape();
	await w.debugging.clearConsole();
	await w.debugging.startWithout();
	await pick(w, 'deployment/web');
	await w.debugging.prints(/shop go on web-.*: hello from the cluster/);
	await w.debugging.ended();
});

suite.scenario('types: mirrord-go needs no other extension', async () => {
	await w.debugging.clearConsole();
	await w.debugging.start('own');
	await w.debugging.paused(); // launch.json names the target
	assert.match((await w.debugging.variables('Locals')).join('\n'), /^greeting = "hello from the cluster"/m);
	await w.debugging.continue();
	await w.debugging.ended();
	await w.debugging.prints(/shop go on web-.*: hello from the cluster/);
	await w.notifications.none();
});
