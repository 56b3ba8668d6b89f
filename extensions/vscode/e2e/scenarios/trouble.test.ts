// What goes wrong: each has its message, its recovery or a clean end, and
// leaves nothing behind.

import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import * as net from 'node:net';
import * as path from 'node:path';

import type { Bench } from '../driver/bench.ts';
import { MirrordSuite, nothingRuns, pickerTitle, sessions, statusId, turnOn } from '../driver/mirrord.ts';
import { until } from '../driver/wait.ts';
import type { Window } from '../driver/window.ts';

const suite = new MirrordSuite();
let w: Window;
let folder = '';

/** Writes the workspace's configuration. */
function configure(dir: string, more: object = {}): string {
	const file = path.join(dir, '.mirrord/mirrord.json');
	fs.mkdirSync(path.dirname(file), { recursive: true });
	fs.writeFileSync(file, JSON.stringify({ target: 'deployment/web', feature: { network: { incoming: 'steal' } }, ...more }, null, '\t'));
	return file;
}

async function noSessions(bench: Bench): Promise<void> {
	await until('no session', async () => (await sessions(bench)).length === 0);
}

/** The daemon that the extension has connected to last. */
function daemonPid(bench: Bench): number {
	return Number([...bench.log('mirrord.mirrord', 'mirrord').matchAll(/daemon \S+, pid (\d+)/g)].at(-1)?.[1]);
}

/** Starts the web of a window, and waits until it has the pod's connections. */
async function running(win: Window): Promise<void> {
	await win.debugging.clearConsole();
	await win.debugging.start('web');
	await win.debugging.prints(/shop node listens/);
	await until('the program to answer', async () => (await suite.shop.ask('/up')).copy === 'node');
}

/** A kubeconfig of an API server that hears and never answers, until it is closed. */
async function silentCluster(dir: string): Promise<{ kubeconfig: string; close: () => void }> {
	const heard: net.Socket[] = [];
	const server = net.createServer(c => heard.push(c.on('error', () => undefined)));
	await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
	const { port } = server.address() as net.AddressInfo;
	const kubeconfig = path.join(dir, 'silent.json');
	fs.writeFileSync(kubeconfig, JSON.stringify({
		apiVersion: 'v1', kind: 'Config', 'current-context': 'silent',
		contexts: [{ name: 'silent', context: { cluster: 'silent', user: 'silent', namespace: 'shop' } }],
		clusters: [{ name: 'silent', cluster: { server: `https://127.0.0.1:${port}` } }], users: [{ name: 'silent', user: { token: 'none' } }],
	}));
	return { kubeconfig, close: () => { heard.forEach(c => c.destroy()); server.close(); } };
}

suite.scenario('trouble: a start is cancelled', async bench => {
	folder = bench.workspace('node');
	const silent = await silentCluster(bench.dir);
	try {
		configure(folder, { kubeconfig: silent.kubeconfig });
		w = await bench.open(folder);
		await turnOn(w);
		await w.debugging.start('web');
		await w.notifications.with('mirrord: web').waitFor();
		await w.statusShows(statusId, /mirrord: starting/);
		await w.shot('starting');
		await w.notifications.click('mirrord: web', 'Cancel');
		await w.statusShows(statusId, /^mirrord: on$/);
		assert.equal(await w.debugging.toolbar.count(), 0);
		await w.notifications.none();
		await noSessions(bench);
	} finally {
		silent.close();
	}
});

suite.scenario('trouble: an agent that cannot start is told with the way out', async bench => {
	configure(folder, { agent: { image: 'none.invalid/agent:1' } });
	await w.debugging.start('web');
	assert.match(await w.notifications.shows(/ErrImagePull|ImagePullBackOff/), /none\.invalid\/agent:1.*agent\.image/s);
	await w.statusShows(statusId, /mirrord: trouble/);
	await w.shot('error');
	await noSessions(bench);
	await w.notifications.clear();
});

suite.scenario('trouble: a wrong configuration is told where it is wrong, and holds up no launch', async () => {
	fs.writeFileSync(path.join(folder, '.mirrord/mirrord.json'), '{\n\t"tarjet": "deployment/web"\n}\n');
	await w.debugging.start('web');
	assert.match(await w.notifications.shows(/tarjet/), /mirrord\.json:2:2: tarjet: unknown key, did you mean "target"/);
	await w.debugging.start('web'); // nobody has to read it first
	await until('a second message', async () => (await w.notifications.texts()).filter(t => t.includes('tarjet')).length >= 1);
	await w.notifications.click(/tarjet/, 'Open Configuration');
	await w.tab('mirrord.json').waitFor();
	await until('the problem', async () => (await w.problems()).some(p => /tarjet: unknown key/.test(p) && /Ln 2, Col 2/.test(p)));
	await w.shot('problems');
	await w.notifications.clear();
});

suite.scenario('trouble: a message can be silenced, and heard again', async () => {
	await w.debugging.start('web');
	await w.notifications.click(/tarjet/, "Don't Show Again");
	await w.notifications.none();
	await w.debugging.start('web');
	await w.statusShows(statusId, /mirrord: trouble/); // it still shows, and the log has it
	await w.notifications.none();
	await w.command('mirrord: Show All Messages Again');
	await w.notifications.shows(/all messages are shown again/);
	await w.notifications.clear();
	await w.debugging.start('web');
	await w.notifications.shows(/tarjet/);
	await w.notifications.clear();
});

suite.scenario('trouble: a configuration is created, in order, and not overwritten', async () => {
	fs.rmSync(path.join(folder, '.mirrord'), { recursive: true });
	await w.command('mirrord: Create Configuration');
	await w.tab('mirrord.yaml').waitFor();
	assert.match(await w.editorText(), /^#.*\n/);
	const file = path.join(folder, '.mirrord/mirrord.yaml');
	const text = fs.readFileSync(file, 'utf8');
	await until('no problem', async () => !(await w.problems()).some(p => p.includes('mirrord.yaml')));
	await w.shot('created');
	fs.writeFileSync(file, text + '# mine\n');
	await w.command('mirrord: Create Configuration');
	await w.tab('mirrord.yaml').waitFor();
	assert.equal(fs.readFileSync(file, 'utf8'), text + '# mine\n');
});

suite.scenario('trouble: no cluster is told, and another can be chosen', async () => {
	fs.rmSync(path.join(folder, '.mirrord'), { recursive: true });
	await w.inside.settings({ 'mirrord.kubeconfig': '/nowhere/kubeconfig' });
	await w.debugging.start('web');
	await w.quickPick.titled(pickerTitle);
	assert.match(await w.notifications.shows(/\/nowhere\/kubeconfig/), /file does not exist/);
	await w.quickPick.escape();
	await w.inside.settings({ 'mirrord.kubeconfig': null });
	await w.notifications.clear();
});

suite.scenario('trouble: the daemon is killed, the program goes on', async bench => {
	configure(folder);
	await running(w);
	const before = (await sessions(bench))[0];
	process.kill(daemonPid(bench), 'SIGKILL');
	await w.notifications.shows(/the daemon ended and was started again/);
	await until('the same session', async () => (await sessions(bench)).some(s => s.id === before.id && s.target === before.target));
	await until('the program to answer', async () => (await suite.shop.ask('/still').catch(() => undefined))?.copy === 'node');
	await w.statusShows(statusId, /mirrord: pod\/web-/);
	await w.notifications.clear();
});

async function killAgents(): Promise<void> {
	for (const agent of await suite.shop.agents()) {
		await suite.shop.kubectl('delete', 'pod', agent, '--grace-period=0', '--force');
	}
}

const answers = async (who: string) => (await suite.shop.ask('/who').catch(() => undefined))?.copy === who;

suite.scenario('trouble: the agent is killed, and another takes its place', async bench => {
	await killAgents();
	await w.notifications.shows(/agent/);
	await until('the program to answer', () => answers('node'));
	await w.statusShows(statusId, /mirrord: pod\/web-/);
	await w.debugging.stop();
	await w.notifications.clear();
	await w.command('mirrord: Stop Session');
	await noSessions(bench);
});

suite.scenario('trouble: the agent of the only pod is killed, that answers, and the next launch is as ever', async bench => {
	configure(folder, { target: `pod/${await suite.shop.webPod()}` });
	await running(w);
	await killAgents();
	await w.notifications.shows(/agent/);
	await w.statusShows(statusId, /trouble/);
	await w.shot('trouble');
	await until('the pod to answer', () => answers('cluster'));
	await w.debugging.stop();
	await w.notifications.clear();
	await w.command('mirrord: Stop Session');
	await noSessions(bench);
	configure(folder);
	await running(w);
	await w.debugging.stop();
	await nothingRuns(bench);
});

suite.scenario('trouble: a window that is reloaded leaves nothing', async bench => {
	await running(w);
	await w.reload();
	await w.statusShows(statusId, /^mirrord: on$/);
	await noSessions(bench);
	await until('the pod to answer', async () => (await suite.shop.ask('/reloaded')).copy === 'cluster');
	await w.notifications.none();
});

suite.scenario('trouble: the target\'s pod is deleted, and the next one takes its place', async () => {
	await running(w);
	const before = await suite.shop.webPod();
	await suite.shop.kubectl('delete', 'pod', before, '--wait=false');
	await w.notifications.shows(/gone|deleted|ended/);
	await w.statusShows(statusId, new RegExp(`mirrord: pod/web-(?!${before.slice('web-'.length)})`));
	await until('the program to answer', () => answers('node'));
	await w.debugging.stop();
	await w.notifications.clear();
	await suite.shop.kubectl('rollout', 'status', 'deployment/web', '--timeout=60s');
});

suite.scenario('trouble: a compound, and a second window beside it', async bench => {
	const both = bench.workspace('go', 'node', 'compound');
	configure(both);
	w = await bench.open(both);
	await turnOn(w);
	await w.debugging.start('both');
	await w.statusShows(statusId, /mirrord: 2 sessions/);
	await until('both ports', async () => (await sessions(bench)).filter(s => s.launchers).flatMap(s => s.ports ?? []).sort().join() === '8080,8081');
	await w.shot('compound');

	const other = bench.workspace('python');
	configure(other, { target: 'pod/client' });
	const second = await bench.open(other);
	await turnOn(second);
	await second.command('mirrord: Run in Terminal…');
	await second.quickPick.input.fill('hostname; sleep 1000');
	await second.press('Enter');
	await second.terminal.shows(/^client/m);
	await second.statusShows(statusId, /mirrord: pod\/client/);
	const used = async () => (await sessions(bench)).filter(s => s.launchers).length;
	assert.equal(await used(), 3);
	await second.page.close();
	await until('the sessions of the window that is open', async () => await used() === 2);
	await until('the program to answer', async () => (await suite.shop.ask('/both')).copy === 'go');
	await w.debugging.stop();
	await w.statusShows(statusId, /mirrord: on/);
});
