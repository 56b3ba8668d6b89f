import * as fs from 'node:fs/promises';
import * as path from 'node:path';
import * as vscode from 'vscode';
import type { Daemon } from './daemon';
import { apply, ownType, unsupported, wanted, type Launch } from './launch';
import type { Sessions } from './sessions';
import type { Settings } from './settings';
import type { Starter } from './starter';
import { executable, type SessionTools } from './tools';

/** The key of a resolved configuration that names its session. */
const mark = '__mirrord';

/** Puts launches of every type into sessions, and follows their debug sessions. */
export class Debugging implements vscode.DebugConfigurationProvider, vscode.DebugAdapterDescriptorFactory, vscode.DebugAdapterTrackerFactory {
	constructor(
		private readonly daemon: Daemon, private readonly settings: Settings, private readonly sessions: Sessions,
		private readonly starter: Starter, private readonly tools: SessionTools, private readonly log: vscode.LogOutputChannel,
	) {}

	register(ctx: vscode.ExtensionContext): void {
		const { debug } = vscode;
		ctx.subscriptions.push(
			debug.registerDebugConfigurationProvider('*', this), // after those of the type itself
			debug.registerDebugConfigurationProvider(ownType, new OwnType()),
			debug.registerDebugAdapterDescriptorFactory(ownType, this),
			debug.registerDebugAdapterTrackerFactory('*', this),
			debug.onDidTerminateDebugSession((s) => this.leave(s)),
		);
	}

	async resolveDebugConfigurationWithSubstitutedVariables(
		folder: vscode.WorkspaceFolder | undefined, c: vscode.DebugConfiguration, token?: vscode.CancellationToken,
	): Promise<vscode.DebugConfiguration | undefined> {
		if (!wanted(c, this.settings.on)) return c;
		this.log.debug(`launch ${c.name} of type ${c.type}`);
		const why = await unsupported(c, executable);
		if (why) return await runsOutside(why) ? c : undefined;
		const asker = this.starter.asker(c, folder);
		let running = this.sessions.of(asker.key);
		try {
			if (running) running.info = await this.daemon.restart(running.info.id, asker.client); // what differs in the configuration holds for this launch
			else running = await this.starter.session(asker, token);
			if (!running) return undefined; // the launch ends without a word
			const { id } = running.info;
			return { ...await apply(c, id, await this.tools.of(id)), [mark]: id };
		} catch (e) {
			this.starter.fail(e);
			return undefined;
		}
	}

	async createDebugAdapterDescriptor(s: vscode.DebugSession): Promise<vscode.DebugAdapterDescriptor> {
		const id = marked(s);
		if (!id) throw new Error('mirrord: this debug session has no session');
		const { endpoint } = await this.daemon.debug(id, this.starter.asker(s.configuration as Launch, s.workspaceFolder).client);
		if (endpoint.startsWith('unix:')) return new vscode.DebugAdapterNamedPipeServer(endpoint.slice('unix:'.length));
		const [host, port] = endpoint.split(/:(?=\d+$)/);
		return new vscode.DebugAdapterServer(Number(port), host);
	}

	/** A debug session begins with its adapter; that it has started is told only when the program has been built. */
	createDebugAdapterTracker(s: vscode.DebugSession): vscode.DebugAdapterTracker | undefined {
		const id = marked(s);
		if (!id) return undefined;
		this.log.debug(`debug session ${s.name} begins in session ${id}`);
		this.sessions.use(id, root(s).id);
		const pause = (paused: boolean) => this.sessions.pause(id, root(s).id, paused);
		return {
			onDidSendMessage: (m: { type?: string; event?: string; command?: string; success?: boolean }) => {
				if (m.type === 'event' && m.event === 'stopped') pause(true);
				if (m.type === 'event' && (m.event === 'continued' || m.event === 'terminated')) pause(false);
				if (m.type === 'response' && m.success && resuming.includes(m.command ?? '')) pause(false);
			},
			onWillStopSession: () => this.leave(s),
			onExit: () => this.leave(s),
		};
	}

	private leave(s: vscode.DebugSession): void {
		const id = marked(s);
		if (id && !s.parentSession) this.sessions.leave(id, s.id, false);
	}
}

/** Lets the user choose to run a launch without mirrord. */
async function runsOutside(why: string): Promise<boolean> {
	const go = 'Run without mirrord';
	const detail = 'Run it as a task or in a terminal of mirrord, or wrap its program by `mirrord exec`.';
	return await vscode.window.showWarningMessage(`mirrord: this launch cannot be in the context of a pod: ${why}`, { detail, modal: true }, go) === go;
}

const resuming = ['continue', 'next', 'stepIn', 'stepOut', 'stepBack', 'reverseContinue', 'restart'];

/** Debug sessions that another has begun, as js-debug's, are in the session of that one. */
function root(s: vscode.DebugSession): vscode.DebugSession { return s.parentSession ? root(s.parentSession) : s; }

function marked(s: vscode.DebugSession): string | undefined {
	const id: unknown = root(s).configuration[mark];
	return typeof id === 'string' ? id : undefined;
}

/** What mirrord-go takes for granted. */
class OwnType implements vscode.DebugConfigurationProvider {
	provideDebugConfigurations(): vscode.DebugConfiguration[] { return [ownLaunch('${workspaceFolder}')]; }

	resolveDebugConfiguration(_: vscode.WorkspaceFolder | undefined, c: vscode.DebugConfiguration): vscode.DebugConfiguration {
		if (!c.type && vscode.window.activeTextEditor?.document.languageId === 'go') return ownLaunch('${fileDirname}'); // there is no launch.json
		return { ...c, mode: c['mode'] ?? 'debug', program: c['program'] ?? '${workspaceFolder}' };
	}

	/** A package is built, and its program runs, in the package's directory. */
	async resolveDebugConfigurationWithSubstitutedVariables(_: vscode.WorkspaceFolder | undefined, c: vscode.DebugConfiguration): Promise<vscode.DebugConfiguration> {
		if (c['mode'] === 'exec' || c['dlvCwd']) return c;
		const program = String(c['program']);
		const found = await fs.stat(program).catch(() => undefined);
		if (!found) return c; // Delve says what is wrong with it
		const dir = found.isDirectory() ? program : path.dirname(program);
		return { ...c, dlvCwd: dir, cwd: c['cwd'] ?? dir };
	}
}

function ownLaunch(program: string): vscode.DebugConfiguration {
	return { type: ownType, request: 'launch', name: 'mirrord: Go', mode: 'debug', program };
}
