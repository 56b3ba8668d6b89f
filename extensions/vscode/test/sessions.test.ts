// What a window's sessions go through, with the real daemon on the test cluster.
import * as assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import type * as vscode from 'vscode';
import { Daemon, DaemonError, type Cancel } from '../src/daemon';
import { EventLog } from '../src/eventlog';
import { merge } from '../src/launch';
import type { Notifier } from '../src/notify';
import type { SessionStart } from '../src/protocol';
import { Sessions, type Running } from '../src/sessions';
import { CancellationTokenSource } from './vscode';

const binary = process.env['MIRRORD_TEST_BINARY'] ?? path.join(process.cwd(), '../../bin/mirrord');
const kubeconfig = process.env['MIRRORD_TEST_KUBECONFIG'];
const never: Cancel = { isCancellationRequested: false, onCancellationRequested: () => ({ dispose() {} }) };

describe('the sessions of a window', function () {
	this.timeout(60_000);
	let dir = '';
	let daemon: Daemon;
	let sessions: Sessions;
	let told: string[] = [];
	let bridge = 0;

	before(function () { if (!kubeconfig) this.skip(); });
	beforeEach(() => {
		dir = fs.mkdtempSync(path.join(os.tmpdir(), 'mx-'));
		process.env['XDG_RUNTIME_DIR'] = dir;
		told = [];
		const tell = (kind: string) => async (_: string, e: unknown) => { told.push(`${kind}: ${e instanceof Error ? e.message : String(e)}`); return undefined; };
		const notify = { error: tell('error'), warn: tell('warn'), info: tell('info') } as unknown as Notifier;
		const log = { info() {}, warn() {}, debug() {} } as unknown as vscode.LogOutputChannel;
		daemon = new Daemon({ binary: () => binary, build: () => '', name: 'test', log() {} });
		sessions = new Sessions(daemon, notify, new EventLog(), log);
		bridge = 0;
	});
	afterEach(() => {
		if (!dir) return;
		sessions.dispose();
		daemon.dispose();
		execFileSync(binary, ['daemon', 'stop', '--force']);
		fs.rmSync(dir, { recursive: true });
		dir = '';
	});

	const params = (more: Partial<SessionStart['overrides']> = {}): SessionStart => ({
		client: { dir, env: merge(process.env, {}), local: [] },
		overrides: { kubeconfig: kubeconfig!, namespace: 'shop', target: 'deployment/inventory', ...more }, tied: true,
	});
	const start = (key = 'web', p = params()): Promise<Running> => sessions.start(key, p, () => {}, never);
	const ids = async () => (await daemon.sessions()).map((s) => s.id);
	const until = async (what: string, f: () => boolean) => {
		await new Promise<void>((resolve, reject) => {
			const late = setTimeout(() => reject(new Error(`in vain: ${what}; told ${told.join(' | ')}`)), 30_000);
			const look = () => { if (f()) { clearTimeout(late); resolve(); } };
			sessions.onChange(look);
			look();
		});
	};

	it('are in use, linger, and are used again by the same launch', async () => {
		const r = await start();
		assert.equal(sessions.own.length, 1);
		sessions.use(r.info.id, 'debug');
		assert.equal(sessions.of('web'), r);
		sessions.leave(r.info.id, 'debug', false);
		assert.deepEqual([sessions.own.length, sessions.list.length, sessions.of('web')], [0, 1, undefined]);
		const again = await start();
		assert.equal(again.info.id, r.info.id);
		assert.equal(sessions.own.length, 1);
	});
	it('end for a launch on another target, which may need their ports', async () => {
		const r = await start();
		sessions.use(r.info.id, 'debug');
		sessions.leave(r.info.id, 'debug', false);
		const other = await start('web', params({ target: 'targetless' }));
		assert.notEqual(other.info.id, r.info.id);
		assert.deepEqual(await ids(), [other.info.id]);
	});
	it('end with what is run at once', async () => {
		const r = await start('task');
		sessions.use(r.info.id, 'task');
		sessions.leave(r.info.id, 'task', true);
		assert.equal(sessions.list.length, 0);
		for (const end = Date.now() + 10_000; (await ids()).length > 0;) assert.ok(Date.now() < end, 'it goes on');
	});
	it('do not outlive a cancelled start, however late it was cancelled', async () => {
		const source = new CancellationTokenSource();
		const first = sessions.start('web', params(), () => {}, source.token);
		source.cancel();
		await assert.rejects(first, (e: unknown) => e instanceof DaemonError && e.cancelled);
		const r = await start();
		sessions.use(r.info.id, 'debug');
		sessions.leave(r.info.id, 'debug', false);
		const late = new CancellationTokenSource();
		const second = sessions.start('web', params(), () => {}, late.token); // uses the session again
		late.cancel();
		await assert.rejects(second, (e: unknown) => e instanceof DaemonError && e.cancelled);
		assert.deepEqual([sessions.list.length, await ids(), sessions.starting], [0, [], 0]);
	});
	it('are taken up in another daemon, on the same pod', async () => {
		const r = await start();
		sessions.use(r.info.id, 'debug');
		const { id, target, started, context } = r.info;
		assert.ok(context);
		const before = daemon.pid;
		process.kill(before, 'SIGKILL');
		await until('another daemon', () => told.length > 0);
		assert.deepEqual(told, ['info: the daemon ended and was started again; open remote connections of the program were reset']);
		assert.notEqual(daemon.pid, before);
		assert.deepEqual([r.info.id, r.info.target, r.info.started, r.info.context], [id, target, started, context]);
		assert.deepEqual([await ids(), sessions.trouble], [[id], '']);
	});
	it('are gone with the connection, which is told', async () => {
		const r = await start();
		sessions.use(r.info.id, 'debug');
		bridge = Number(execFileSync('pgrep', ['-P', String(process.pid), '-f', 'daemon --stdio']).toString().split('\n')[0]);
		process.kill(bridge, 'SIGKILL');
		await until('the end of the session', () => told.length > 0);
		assert.match(told[0]!, /^error: the connection to the daemon was lost, and sessions with it: it ended the sessions of this window/);
		assert.deepEqual([sessions.list.length, await ids()], [0, []]);
		assert.ok(sessions.trouble);
		sessions.settle();
		assert.equal(sessions.trouble, '');
	});
	it('of others are known while something runs in them, and their end is told only where it was unexpected', async () => {
		await sessions.listen(true);
		const r = await start();
		sessions.use(r.info.id, 'debug');
		execFileSync(binary, ['session', 'stop', r.info.id]);
		await until('the end of the session', () => sessions.list.length === 0);
		assert.match(told.join(), /^warn: the session with pod\/inventory-\S+ in shop has ended: it was stopped$/);
	});
});
