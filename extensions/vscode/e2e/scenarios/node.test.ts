// Node.js programs with the built-in debugger, by the keyboard alone; and tasks,
// terminals and other ways that programs start.

import assert from 'node:assert/strict';

import { MirrordSuite, nothingRuns, pick, pickerTitle, sessions, statusId } from '../driver/mirrord.ts';
import { until } from '../driver/wait.ts';
import type { Window } from '../driver/window.ts';

const suite = new MirrordSuite();
let w: Window;

suite.scenario('node: by the keyboard, a request stops at a breakpoint and is answered', async bench => {
	w = await bench.open(bench.workspace('node'));
	await w.statusShows(statusId, /mirrord: off/);
	await w.commandByKeyboard('mirrord: Toggle');
	await w.statusShows(statusId, /mirrord: on/);
	await w.debugging.breakAt('web.js', "response.setHeader('Content-Type'");
	await w.press('F5');
	await w.quickPick.titled(pickerTitle);
	await w.quickPick.chooseByKeyboard('Incoming: mirror');
	await w.quickPick.row('Incoming: steal').waitFor();
	for (const label of await w.quickPick.labels()) {
		assert.ok(label, 'a row has no label');
	}
	await w.quickPick.chooseByKeyboard('deployment/web');
	await w.debugging.prints(/shop node on web-.*: hello from the cluster/);
	await w.debugging.prints(/shop node listens/);
	await until('the port to be stolen', async () => (await sessions(bench))[0]?.ports?.includes(8080));
	const answer = suite.shop.ask('/node');
	await w.debugging.paused();
	await w.statusShows(statusId, /mirrord: stopped in /);
	assert.match((await w.debugging.variables('Local')).join('\n'), /^a = \{copy: 'node', host: 'web-/m);
	await w.shot('node-stopped');
	assert.equal((await sessions(bench)).length, 1); // js-debug's own child asks for no other
	await w.press('F5');
	const a = await answer;
	assert.deepEqual({ copy: a.copy, greeting: a.greeting, path: a.path }, { copy: 'node', greeting: 'hello from the cluster', path: '/node' });
	await w.debugging.stop();
	await w.statusShows(statusId, /mirrord: on/);
	await w.notifications.none();
});

suite.scenario('node: in a terminal, by npm, without debugging', async () => {
	await w.debugging.clearBreakpoints();
	await w.debugging.start('once in a terminal');
	await pick(w, 'deployment/web');
	await w.debugging.ended();
	await w.terminal.show();
	assert.doesNotMatch(await w.terminal.shows(/shop node on web-.*: hello from the cluster/), /sample-token/);
	await w.debugging.start('by npm');
	await pick(w, 'deployment/web');
	await w.debugging.ended();
	await w.terminal.shows(/> node web\.js once.*shop node on web-.*: hello from the cluster/s);
	await w.debugging.start('once'); // makes it F5's
	await w.quickPick.titled(pickerTitle);
	await w.quickPick.escape();
	await w.debugging.clearConsole();
	await w.debugging.startWithout();
	await pick(w, 'deployment/web');
	await w.debugging.ended();
	await w.debugging.prints(/shop node on web-.*: hello from the cluster/);
});

suite.scenario('node: a launch can differ by MIRRORD_ACTIVE', async () => {
	await w.debugging.clearConsole();
	await w.debugging.start('never');
	await w.debugging.ended();
	await w.debugging.prints(/shop node on \S+: $/m);
});

suite.scenario('node: tasks of a target, and with a question', async bench => {
	await nothingRuns(bench);
	const before = (await sessions(bench)).map(s => s.id);
	const only = async () => (await sessions(bench)).every(s => before.includes(s.id)); // a task's session ends with it
	await w.runTask('once');
	await w.terminal.shows(/shop node on web-.*: hello from the cluster/);
	await until('its session to end', only);
	await w.runTask('asks');
	await pick(w, 'deployment/web');
	await w.terminal.shows(/greeting: hello from the cluster/);
	await w.runTask('here');
	await w.terminal.shows(/here: \./);
	await until('the sessions to end', only);
});

suite.scenario('node: terminals, a command, and a shell, in the context of a pod', async bench => {
	await nothingRuns(bench);
	const before = (await sessions(bench)).map(s => s.id);
	const only = async () => (await sessions(bench)).every(s => before.includes(s.id));
	await w.command('mirrord: Run in Terminal…');
	await w.quickPick.filter('echo of $(hostname): $SHOP_GREETING; sleep 1000');
	await w.press('Enter');
	await pick(w, 'deployment/web');
	await w.terminal.shows(/of web-.*: hello from the cluster/);
	await w.shot('terminal');
	await w.inside.command('workbench.action.terminal.kill');
	await until('its session to end', only);
	await w.command('mirrord: Run in Terminal…');
	await w.quickPick.input.waitFor();
	await w.press('Enter');
	await pick(w, 'deployment/web');
	await w.statusShows(statusId, /mirrord: .*web/);
	await w.terminal.type('cat /etc/shop/config.yaml');
	await w.terminal.shows(/currency: EUR/);
	await w.terminal.type('exit');
	await until('its session to end', only);
	await w.notifications.none();
});

suite.scenario('node: a target that was chosen for the launches to come is not asked for', async () => {
	await w.command('mirrord: Choose Target…');
	await pick(w, 'pod/client');
	await w.statusShows(statusId, /mirrord: on \(pod\/client\)/);
	await w.debugging.clearConsole();
	await w.debugging.start('once');
	await w.debugging.prints(/shop node on client: /);
	await w.debugging.ended();
	await w.statusItem(statusId).click();
	await w.quickPick.row('Turn off').waitFor();
	await w.shot('menu');
	await w.quickPick.choose('Ask for the target at each launch');
	await w.statusShows(statusId, /^mirrord: on$/);
});
