import * as vscode from 'vscode';
import type { Sessions } from './sessions';
import type { Settings } from './settings';
import { activeFolder, type Asker, type Starter } from './starter';

interface Definition extends vscode.TaskDefinition {
	command: string;
	target?: string;
	namespace?: string;
	configFile?: string;
	cwd?: string;
}

/** Tasks and terminals that run in a session, by `mirrord exec`. */
export class Terminals implements vscode.TaskProvider, vscode.TerminalProfileProvider {
	private readonly terminals = new Map<vscode.Terminal, string>(); // session
	private readonly forTerminals = new Set<string>(); // sessions
	private readonly commands = new Map<string, string>(); // by task
	private readonly waiting = new Map<string, string[]>(); // sessions whose task is about to run, by the variable in their place
	private readonly tasks = new Map<vscode.TaskExecution, string>(); // session
	private readonly registered: vscode.Disposable[] = [];
	private count = 0;

	constructor(private readonly settings: Settings, private readonly sessions: Sessions, private readonly starter: Starter) {}

	register(ctx: vscode.ExtensionContext): void {
		ctx.subscriptions.push(
			{ dispose: () => this.registered.forEach((d) => d.dispose()) },
			vscode.tasks.registerTaskProvider('mirrord', this),
			vscode.window.registerTerminalProfileProvider('mirrord.terminal', this),
			vscode.window.onDidOpenTerminal((t) => this.opened(t)),
			vscode.window.onDidCloseTerminal((t) => {
				const id = this.terminals.get(t);
				if (id && this.terminals.delete(t)) this.sessions.leave(id, `terminal ${id}`, true);
			}),
			vscode.tasks.onDidStartTaskProcess(({ execution }) => {
				const run = execution.task.execution;
				const variable = run instanceof vscode.ProcessExecution ? sessionOf(run.args) : undefined;
				const id = variable && this.waiting.get(variable)?.shift();
				if (!id) return;
				this.tasks.set(execution, id);
				this.sessions.use(id, `task ${id}`);
			}),
			vscode.tasks.onDidEndTask(({ execution }) => {
				const id = this.tasks.get(execution);
				if (id && this.tasks.delete(execution)) this.sessions.leave(id, `task ${id}`, true);
			}),
		);
	}

	private opened(t: vscode.Terminal): void {
		const id = sessionOf((t.creationOptions as vscode.TerminalOptions).shellArgs);
		if (!id || !this.forTerminals.has(id) || this.terminals.has(t)) return; // a task's is not ours
		this.terminals.set(t, id);
		this.sessions.use(id, `terminal ${id}`);
	}

	provideTasks(): vscode.Task[] { return []; } // each workspace has its own, in tasks.json

	/** Tasks are also resolved to be listed: the session is asked for when one is run. */
	resolveTask(task: vscode.Task): vscode.Task {
		const d = task.definition as Definition;
		const folder = typeof task.scope === 'object' ? task.scope : vscode.workspace.workspaceFolders?.[0];
		const cwd = d.cwd ?? folder?.uri.fsPath;
		const session = this.command(JSON.stringify([d, folder?.uri.toString()]), () => ({
			key: `task#${folder?.uri.toString() ?? ''}#${task.name}`, name: task.name, client: this.starter.client(folder),
			configFile: d.configFile, target: d.target, namespace: d.namespace,
		}));
		const execution = new vscode.ProcessExecution(this.settings.binary, ['exec', '--session', `\${command:${session}}`, '--', 'sh', '-c', d.command], cwd ? { cwd } : {});
		const resolved = new vscode.Task(d, task.scope ?? vscode.TaskScope.Workspace, task.name, 'mirrord', execution, task.problemMatchers);
		resolved.presentationOptions = task.presentationOptions;
		if (task.group) resolved.group = task.group;
		resolved.isBackground = task.isBackground;
		return resolved;
	}

	/** A command that VS Code calls for the session's id, in the place of a variable; without one the task is not run. */
	private command(definition: string, asker: () => Asker): string {
		const known = this.commands.get(definition);
		if (known) return known;
		const id = `mirrord.sessionOfTask${this.commands.size + 1}`;
		this.commands.set(definition, id);
		const sessions: string[] = [];
		this.waiting.set(`\${command:${id}}`, sessions);
		this.registered.push(vscode.commands.registerCommand(id, async () => {
			const running = await this.starter.session(asker());
			if (!running) return undefined;
			sessions.push(running.info.id);
			return running.info.id;
		}));
		return id;
	}

	async provideTerminalProfile(token: vscode.CancellationToken): Promise<vscode.TerminalProfile | undefined> {
		const options = await this.terminal(token);
		return options && new vscode.TerminalProfile(options);
	}

	/** A command, or a shell, in a terminal in a target's context. */
	async runInTerminal(command?: string): Promise<void> {
		const line = command ?? await vscode.window.showInputBox({
			title: 'mirrord: run in a terminal', prompt: 'Command to run in the context of a target; empty: a shell', placeHolder: 'npm start', ignoreFocusOut: true,
		});
		if (line === undefined) return;
		const options = await this.terminal(undefined, line.trim());
		if (options) vscode.window.createTerminal(options).show();
	}

	private async terminal(token?: vscode.CancellationToken, line = ''): Promise<vscode.TerminalOptions | undefined> {
		const folder = activeFolder();
		const running = await this.starter.session({
			key: `terminal#${Date.now()}#${++this.count}`, name: line || 'terminal', client: this.starter.client(folder),
		}, token);
		if (!running) return undefined;
		const { id, target } = running.info;
		this.forTerminals.add(id);
		const shell = vscode.env.shell || '/bin/sh';
		return {
			name: line ? `mirrord: ${line}` : `mirrord: ${target}`,
			shellPath: this.settings.binary,
			shellArgs: ['exec', '--session', id, '--', ...(line ? ['sh', '-c', line] : [shell])],
			iconPath: new vscode.ThemeIcon('target'),
			isTransient: true, // its session ends with this window
			...(folder ? { cwd: folder.uri } : {}),
		};
	}
}

/** The session that a command line of ours runs in. */
function sessionOf(args: readonly string[] | string | undefined): string | undefined {
	return Array.isArray(args) && args[0] === 'exec' && args[1] === '--session' ? args[2] : undefined;
}
