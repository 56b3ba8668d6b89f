// A developer with a launch.json for Go that works: click, pick, debug.

import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import * as path from 'node:path';

import { daemonRuns, MirrordSuite, pick, pickerTitle, sessions, statusId, steal, turnOn } from '../driver/mirrord.ts';
import { until } from '../driver/wait.ts';
import type { Window } from '../driver/window.ts';

const suite = new MirrordSuite();
let w: Window;

const line = 'json.NewEncoder(w).Encode(a)';

suite.scenario('go: off, it does nothing', async bench => {
	w = await bench.open(bench.workspace('go'));
	await w.statusShows(statusId, /^mirrord: off$/);
	await w.shot('status-off');
	await w.debugging.start('once');
	await w.debugging.prints(/shop go on \S+: $/m);
	await w.debugging.ended();
	assert.equal(daemonRuns(bench), false);
	await w.notifications.none();
});

suite.scenario('go: Escape in the picker ends the launch without a word', async bench => {
	await turnOn(w);
	await w.openFile('main.go');
	await w.press('F5');
	await w.quickPick.titled(pickerTitle);
	await w.quickPick.row('deployment/web').waitFor();
	await w.shot('picker');
	await w.quickPick.filter('client');
	await until('one target', async () => (await w.quickPick.texts()).filter(t => t.includes('/')).join() === 'pod/client');
	await w.quickPick.escape();
	await w.statusShows(statusId, /^mirrord: on$/);
	assert.equal(await w.debugging.toolbar.count(), 0);
	assert.equal(await w.dialog.count(), 0);
	await w.notifications.none();
	assert.deepEqual(await sessions(bench), []);
});

let session = '';

suite.scenario('go: a request from another pod stops at a breakpoint, and is answered', async bench => {
	const { shop } = suite;
	await w.debugging.breakAt('main.go', line);
	await w.debugging.start('web');
	await w.quickPick.titled(pickerTitle);
	await steal(w);
	await pick(w, 'deployment/web');
	await w.statusShows(statusId, /^mirrord: deployment\/web|^mirrord: pod\/web/);
	await w.debugging.prints(/shop go on web-.*: hello from the cluster/);
	await w.debugging.prints(/shop go listens/);
	await until('the port to be stolen', async () => (await sessions(bench))[0]?.ports?.includes(8080));
	await w.shot('connected');
	session = (await sessions(bench))[0].id;

	const answer = shop.ask('/hello');
	await w.debugging.paused();
	await w.statusShows(statusId, /^mirrord: stopped in (deployment|pod)\/web/);
	assert.match((await w.debugging.variables('Locals')).join('\n'), /^a = main\.answer \{Copy: "go", Host: "web-/m);
	await w.shot('stopped');
	const state = await w.inside.state();
	assert.equal((state.session?.env as Record<string, string>).MIRRORD_SESSION, session);
	assert.doesNotMatch(JSON.stringify(state.session), /sample-token|hello from the cluster/);
	await w.debugging.continue();
	const a = await answer;
	assert.deepEqual({ copy: a.copy, greeting: a.greeting, path: a.path }, { copy: 'go', greeting: 'hello from the cluster', path: '/hello' });
	assert.match(a.config, /currency: EUR/);
});

suite.scenario('go: the side bar shows the request, and the target\'s files', async () => {
	await w.sideBar('mirrord');
	const tree = w.tree('Sessions');
	await tree.row(/8080.*stolen/s).waitFor();
	const answer = suite.shop.ask('/seen');
	await w.debugging.paused();
	await w.debugging.continue();
	await answer;
	await w.sideBar('mirrord');
	await tree.row(/GET \/seen/).waitFor();
	await w.shot('sidebar');
	for (const label of await tree.labels()) {
		assert.ok(label, 'a row has no label');
	}
	await tree.row(/GET \/seen/).click();
	await until('the exchange', async () => /"greeting": "hello from the cluster"/.test(await w.editorText()));
	assert.match(await w.editorText(), /GET \/seen HTTP\/1\.1[\s\S]*HTTP\/1\.1 200/);
	await w.shot('request');
	await w.command('mirrord: Open the Target\'s Files');
	const files = w.tree('Target\'s Files');
	await files.expand(files.labelled('directory etc'));
	await files.expand(files.labelled('directory shop'));
	await files.labelled('file config.yaml').click();
	await w.tab('config.yaml').waitFor();
	assert.match(await w.editorText(), /currency: EUR/);
	await w.shot('files');
});

suite.scenario('go: a restart keeps the session', async bench => {
	await w.debugging.restartRunning();
	await w.debugging.prints(/shop go listens/);
	const answer = suite.shop.ask('/again');
	await w.debugging.paused();
	assert.deepEqual((await sessions(bench)).map(s => s.id), [session]);
	await w.debugging.continue();
	assert.equal((await answer).copy, 'go');
});

suite.scenario('go: after it has ended the pod answers', async bench => {
	await w.debugging.stop();
	await until('the port to be given back', async () => (await sessions(bench)).every(s => !s.ports?.length));
	await until('the pod to answer', async () => (await suite.shop.ask('/after')).copy === 'cluster');
	await w.statusShows(statusId, /^mirrord: on/);
	await w.notifications.none();
});

suite.scenario('go: one request is stolen, and one more when the user wants it', async bench => {
	fs.mkdirSync(path.join(w.folder, '.mirrord'), { recursive: true });
	fs.writeFileSync(path.join(w.folder, '.mirrord/mirrord.json'), JSON.stringify({
		target: 'deployment/web',
		feature: { network: { incoming: { mode: 'steal', once: true, http_filter: { path_filter: '^/mine' } } } },
	}));
	await w.debugging.start('web');
	await w.debugging.prints(/shop go listens/);
	await until('the port to be stolen', async () => (await sessions(bench))[0]?.ports?.includes(8080));
	const tree = w.tree('Sessions');
	await w.sideBar('mirrord');
	await tree.row(/waits for one request/).waitFor();
	await tree.row(/8080.*stolen by path \^\/mine/s).waitFor();
	const first = suite.shop.ask('/mine');
	await w.debugging.paused();
	assert.equal((await suite.shop.ask('/mine')).copy, 'cluster');
	const arm = w.debugging.toolbar.getByLabel(/Steal One More Request/);
	await arm.waitFor();
	await w.shot('caught');
	await arm.click();
	await arm.waitFor({ state: 'detached' });
	await w.debugging.continue();
	assert.equal((await first).copy, 'go');
	const second = suite.shop.ask('/mine');
	await w.debugging.paused();
	await w.debugging.continue();
	assert.equal((await second).copy, 'go');
	await w.debugging.stop();
	fs.rmSync(path.join(w.folder, '.mirrord'), { recursive: true });
	await w.notifications.none();
});
