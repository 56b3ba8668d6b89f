// The driver itself, and the stand-ins, without an extension of ours: plain
// Delve, js-debug, debugpy, and a terminal.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import * as path from 'node:path';

import { root, goCaches, Suite } from '../driver/scenario.ts';
import type { Window } from '../driver/window.ts';

const here = import.meta.dirname;
const dlv = path.join(root, 'bin/dlv');
let w: Window;

const suite = new Suite(() => ({
	extensions: [path.join(here, '../standins/go'), path.join(here, '../standins/python')],
	settings: {
		'go.alternateTools': { dlv },
		'python.defaultInterpreterPath': execFileSync(path.join(here, '../python.sh'), { stdio: ['ignore', 'pipe', 'inherit'] }).toString().trim(),
	},
	env: { ...goCaches(), KUBECONFIG: '/dev/null', SHOP_GREETING: 'hello from here' },
}));

suite.scenario('driver: Delve stops at a breakpoint and goes on', async bench => {
	w = await bench.open(bench.workspace('go'));
	await w.debugging.breakAt('main.go', 'return answer{');
	await w.debugging.start('once');
	await w.debugging.paused();
	assert.match((await w.debugging.variables('Locals')).join('\n'), /^greeting\b.*"hello from here"/m);
	assert.match((await w.debugging.callStack()).join('\n'), /main\.answerTo/);
	await w.debugging.prints(/Starting: .*\/dlv dap --listen=127\.0\.0\.1:\d+ --log-dest=3/);
	await w.shot('driver-go-paused');
	await w.debugging.continue();
	await w.debugging.ended();
	await w.debugging.prints(/shop go on .*: hello from here/);
});

suite.scenario('driver: Delve in a terminal', async () => {
	await w.debugging.start('once in a terminal');
	await w.debugging.paused();
	await w.terminal.show();
	await w.terminal.shows(/\/usr\/bin\/env .*GOPATH=.*\/dlv dap --client-addr=:\d+/);
	await w.debugging.continue();
	await w.debugging.ended();
	await w.terminal.shows(/shop go on .*: hello from here/);
});

suite.scenario('driver: js-debug stops at a breakpoint and goes on', async bench => {
	w = await bench.open(bench.workspace('node'));
	await w.debugging.breakAt('web.js', 'return {');
	await w.debugging.start('once');
	await w.debugging.paused();
	assert.match((await w.debugging.variables('Local')).join('\n'), /^greeting = .*hello from here/m);
	await w.debugging.continue();
	await w.debugging.ended();
	await w.debugging.prints(/shop node on .*: hello from here/);
});

suite.scenario('driver: debugpy stops at a breakpoint and goes on', async bench => {
	w = await bench.open(bench.workspace('python'));
	await w.debugging.breakAt('web.py', 'return {');
	await w.debugging.start('once');
	await w.debugging.paused();
	assert.match((await w.debugging.variables('Locals')).join('\n'), /^greeting\b.*hello from here/m);
	await w.debugging.continue();
	await w.debugging.ended();
	await w.debugging.prints(/shop python on .*: hello from here/);
});

suite.scenario('driver: a terminal, themes, a reload', async bench => {
	w = await bench.open(bench.workspace('python'));
	await w.terminal.open();
	await w.terminal.type('echo $((6 * 7)) is it');
	await w.terminal.shows(/42 is it/);
	for (const theme of ['light', 'high contrast', 'dark'] as const) {
		await w.theme(theme);
	}
	await w.reload();
	await w.openFile('web.py');
	assert.match(await w.editorText(), /def answer_to\(path\):/);
	await w.notifications.none();
	assert.ok(await w.tab('web.py').isVisible());
});
